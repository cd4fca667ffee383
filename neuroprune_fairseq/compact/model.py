"""The model ``neuroprune_compact``: fairseq's transformer with the sizes of a compact checkpoint.

A checkpoint written by neuroprune-compact names this architecture and holds the number of
heads and neurons of every block as ``neuroprune_shapes`` in its model settings, so whatever
builds a model from a checkpoint's settings builds the small one.
"""

from __future__ import annotations

import argparse
import os
from argparse import Namespace

from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel, base_architecture

from neuroprune_fairseq.checkpoint import model_settings, read_checkpoint
from neuroprune_fairseq.compact.cutting import reshape_
from neuroprune_fairseq.errors import refuse

ARCH = "neuroprune_compact"


@register_model(ARCH)
class CompactTransformerModel(TransformerModel):
    """fairseq's TransformerModel, cut down to ``args.neuroprune_shapes`` when it is built."""

    @classmethod
    def build_model(cls, args, task):
        model = super().build_model(args, task)
        sizes = getattr(args, "neuroprune_shapes", None)
        if not isinstance(sizes, dict):
            refuse(f"a model of {ARCH} needs the sizes of a compact checkpoint, it has none")
        try:
            reshape_(model, sizes)
        except ValueError as error:
            refuse(f"the sizes of the compact checkpoint do not fit its architecture: {error}")
        return model


def _checkpoint_to_restore(args: Namespace) -> str | None:
    """The file that fairseq-train is going to load, by fairseq's own rules."""
    if args.restore_file != "checkpoint_last.pt":  # fairseq's default
        return args.restore_file
    suffix = getattr(args, "checkpoint_suffix", "")
    last = os.path.join(args.save_dir, f"checkpoint_last{suffix}.pt")
    return last if os.path.exists(last) else args.finetune_from_model


def _setting_names() -> list[str]:
    """The names of all settings that belong to fairseq's transformer."""
    parser = argparse.ArgumentParser(add_help=False)
    TransformerModel.add_args(parser)
    return [action.dest for action in parser._actions]


@register_model_architecture(ARCH, ARCH)
def neuroprune_compact(args: Namespace) -> None:
    """Take the architecture from the checkpoint that training is to go on from.

    What the command line sets itself (``--dropout``) is left; a model that is built from
    a checkpoint's own settings has everything already.
    """
    if hasattr(args, "restore_file") and not hasattr(args, "neuroprune_shapes"):
        path = _checkpoint_to_restore(args)
        if path is None:
            refuse(f"--arch {ARCH} needs a compact checkpoint: --restore-file FILE")
        saved = model_settings(read_checkpoint(path))
        if not hasattr(saved, "neuroprune_shapes"):
            refuse(f"{path} is not compact; name its own --arch, or run neuroprune-compact first")
        for name in [*_setting_names(), "neuroprune_shapes", "neuroprune_arch"]:
            if not hasattr(args, name) and hasattr(saved, name):
                setattr(args, name, getattr(saved, name))
    base_architecture(args)
