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
from torch import nn

from neuroprune_fairseq.compact.cutting import Plan, reshape_, shapes
from neuroprune_fairseq.files.checkpoint import model_settings, read_checkpoint
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.structure import attention_blocks, removed_attention

ARCH = "neuroprune_compact"
# What a compact model's settings have more than those of the model it was cut from: numbers of
# heads and neurons, the architecture it had, which of that one's heads are left.
OWN_SETTINGS = ("neuroprune_shapes", "neuroprune_arch", "neuroprune_heads")


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


def head_numbers(settings: Namespace, model: nn.Module, plan: Plan) -> dict[str, list[int]]:
    """The heads that a plan keeps, numbered as in the model that was first cut.

    Args:
        settings: of the model before the cut.
        model: before the cut.
        plan: what is kept.

    Returns:
        Numbers by attention module; none where no head is left.
    """
    numbers = getattr(settings, "neuroprune_heads", None)
    if numbers is None:
        numbers = {b.name: list(range(b.num_heads)) for b in attention_blocks(model)}
        numbers.update((module.name, []) for module in removed_attention(model))
    return {name: [old[i] for i in plan.get(name, ())] for name, old in numbers.items()}


def describe_(settings: Namespace, model: nn.Module, heads: dict[str, list[int]]) -> None:
    """Make the settings of a model those of the compact model that was cut from it, in place.

    Args:
        settings: of the model before the cut.
        model: after the cut.
        heads: as :func:`head_numbers` finds them.
    """
    settings.neuroprune_heads = heads
    if settings.arch != ARCH:
        settings.neuroprune_arch = settings.arch  # for the record
    settings.arch = settings._name = ARCH
    settings.neuroprune_shapes = shapes(model)


def follow_checkpoint_(args: Namespace) -> None:
    """Ask for a compact model where training is to go on from a compact checkpoint, in place.

    Args:
        args: all settings of the run, its architecture among them.
    """
    path = _checkpoint_to_restore(args)
    saved = model_settings(read_checkpoint(path)) if path and os.path.exists(path) else None
    if hasattr(saved, "neuroprune_shapes"):
        args.arch = args._name = ARCH
        for name in OWN_SETTINGS:
            if hasattr(saved, name):
                setattr(args, name, getattr(saved, name))


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
        for name in (*_setting_names(), *OWN_SETTINGS):
            if not hasattr(args, name) and hasattr(saved, name):
                setattr(args, name, getattr(saved, name))
    base_architecture(args)
