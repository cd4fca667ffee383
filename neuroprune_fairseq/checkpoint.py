"""Reading fairseq's checkpoints: their settings, their model, and a copy with fewer weights."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import nn

from neuroprune_fairseq.errors import refuse
from neuroprune_fairseq.pruning import zero_small_weights_


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's content to the CPU, without running code from it.

    Args:
        path: a file written by fairseq-train.

    Returns:
        fairseq's dictionary, with ``model`` (state dict) and ``cfg`` among its keys.

    Raises:
        SystemExit: one line, when the file is missing, damaged or no fairseq checkpoint.
    """
    if not Path(path).is_file():
        refuse(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, OSError):
        refuse(f"{path} is damaged, no checkpoint, or holds more than data, which is not loaded")
    if not isinstance(state, dict) or not {"model", "cfg"} <= state.keys():
        refuse(f"{path} is no checkpoint of fairseq-train (it lacks 'model' or 'cfg')")
    return state


def load_model(path: str | Path, data: str | Path) -> nn.Module:
    """Build the model of a checkpoint.

    Args:
        path: a checkpoint of a translation task.
        data: prepared corpus, for the dictionaries.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        SystemExit: one line, when checkpoint and dictionaries do not fit.
    """
    read_checkpoint(path)
    try:
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides={"data": str(data)}
        )
    except (OSError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        refuse(f"{path} does not load with the dictionaries of {data} ({reason[:120]})")
    return models[0].eval()


def language_pair(data: str | Path, subset: str) -> tuple[str, str]:
    """Source and target language of a prepared corpus, as fairseq finds them.

    Args:
        data: prepared corpus.
        subset: one of its parts, such as "test".

    Raises:
        SystemExit: one line, when the folder has no such part.
    """
    if not Path(data).is_dir():
        refuse(f"--data {data}: no such folder; scripts/prepare.sh makes one")
    source, target = data_utils.infer_language_pair(str(data))
    if source is None:
        refuse(f"--data {data} holds no prepared corpus; scripts/prepare.sh makes one")
    if not (Path(data) / f"{subset}.{source}-{target}.{source}.idx").is_file():
        refuse(f"--subset {subset}: {data} holds no binarised text of that name")
    return source, target


def model_flags(state: dict[str, Any]) -> list[str]:
    """The fairseq-train flags that build the same model again.

    Args:
        state: as :func:`read_checkpoint` returns it, of a model named by ``--arch``.

    Returns:
        ``["--arch", name, ...]`` with every flag of the model whose saved value is not
        the architecture's own; dropout is among them.

    Raises:
        SystemExit: one line, when the architecture is unknown.
    """
    saved = state["cfg"]["model"]
    arch = getattr(saved, "arch", None)
    if arch not in ARCH_CONFIG_REGISTRY:
        refuse(f"the checkpoint's architecture {arch!r} is unknown; name one with --arch")
    defaults = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[arch](defaults)
    parser = argparse.ArgumentParser(add_help=False)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    flags = ["--arch", arch]
    for action in parser._actions:
        value = getattr(saved, action.dest, None)
        if value is None or value == getattr(defaults, action.dest, None):
            continue
        if action.nargs != 0:
            flags += [action.option_strings[0], str(value)]
        elif value:
            flags.append(action.option_strings[0])
    return flags


def write_without_small_weights(
    path: str | Path, output: str | Path, tolerance: float, data: str | Path
) -> None:
    """Copy a checkpoint with every prunable weight of |w| < tolerance set to zero.

    Args:
        path: the checkpoint; stays as it is.
        output: the copy, without optimizer state; replaced when it exists.
        tolerance: magnitude below which a weight goes.
        data: prepared corpus, for the dictionaries.
    """
    model = load_model(path, data)
    zero_small_weights_(model, tolerance)
    state = read_checkpoint(path)
    # Only what the file had: a loaded model may hold buffers that its checkpoint does not.
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    state["last_optimizer_state"] = None
    temporary = f"{output}.{os.getpid()}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, output)
