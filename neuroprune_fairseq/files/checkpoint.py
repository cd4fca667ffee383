"""Reading fairseq's checkpoints: their settings, their model, and a copy with fewer weights."""

from __future__ import annotations

import argparse
import ast
import os
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import nn

from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.method.pruning import zero_small_weights_

# Settings that fairseq's models and tasks give to Python's eval() when they are built.
_EVALUATED = (
    *("adaptive_input_cutoff", "adaptive_softmax_cutoff", "character_filters", "downsample"),
    *("conv_aggregator_layers", "conv_feature_layers", "override_encoder_layers", "pretrained"),
    *("encoder_layers", "encoder_attention", "decoder_layers", "decoder_attention"),
    *("self_attention", "gated_attention", "project_input", "left_pad_source", "left_pad_target"),
    *("encoder_xformers_att_config", "decoder_xformers_att_config"),
)
_DAMAGED = "is damaged, no checkpoint, or holds more than data, which is not loaded"
_LITERALS = (ast.Expression, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.BinOp, ast.UnaryOp)
_LITERALS += (ast.Load, ast.Add, ast.Mult, ast.USub)


def _namespace(settings: Any) -> argparse.Namespace | None:
    """Settings as fairseq-train (a Namespace) or fairseq-hydra-train (a dictionary) stores them."""
    if isinstance(settings, dict) and all(isinstance(name, str) for name in settings):
        settings = argparse.Namespace(**{"arch": settings.get("_name"), **settings})
    return settings if isinstance(settings, argparse.Namespace) else None


def settings_group(state: dict[str, Any], name: str) -> argparse.Namespace | None:
    """The settings of "model" or "task"; those of old checkpoints are all in one.

    Args:
        state: the content of a checkpoint.
        name: of the group.

    Returns:
        The settings, "model" with ``arch``; None where there are none.
    """
    cfg = state.get("cfg")
    return _namespace(state.get("args") or (cfg.get(name) if isinstance(cfg, dict) else None))


def model_settings(state: dict[str, Any]) -> argparse.Namespace | None:
    """The settings of a checkpoint's model, as :func:`settings_group`."""
    return settings_group(state, "model")


def _is_literal(value: Any) -> bool:
    """Whether evaluating a setting runs no code: numbers, lists, and sums and products of these."""
    if not isinstance(value, str):
        return True
    try:
        tree = ast.parse(value.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _LITERALS) for node in ast.walk(tree))


def _fault(state: Any) -> str:
    """What makes a file's content no checkpoint to work with, "" if nothing."""
    if not isinstance(state, dict) or not {"model", "cfg"} <= state.keys():
        return "is no checkpoint of fairseq-train (it lacks 'model' or 'cfg')"
    weights, settings = state["model"], model_settings(state)
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        return "is no checkpoint of fairseq-train ('model' holds no weights)"
    if settings is None or not isinstance(getattr(settings, "arch", None), (str, type(None))):
        return "is no checkpoint of fairseq-train ('cfg' has no settings of a model)"
    for name in _EVALUATED:
        for group in (settings, settings_group(state, "task")):
            if not _is_literal(getattr(group, name, None)):
                return f"holds code in its setting {name}, which is not run"
    for name, weight in weights.items():
        if not weight.isfinite().all():
            return f"is not usable: {name} is not finite; take a checkpoint from before"
    return ""


def load_data(path: str | Path) -> Any:
    """Load what a file of torch.save holds to the CPU, without running code from it.

    Raises:
        SystemExit: one line, when the file is missing, damaged, or holds more than data.
    """
    if not Path(path).is_file():
        refuse(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever unpickling comes upon in a file of any kind
        refuse(f"{path} {_DAMAGED}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's content to the CPU, without running code from it.

    Args:
        path: a file written by fairseq-train.

    Returns:
        fairseq's dictionary, with finite weights in ``model`` (state dict) and the settings of a
        model (:func:`model_settings`).

    Raises:
        SystemExit: one line, when the file is missing, damaged, no fairseq checkpoint, or
            one with weights that are not finite or code in its settings.
    """
    state = load_data(path)
    try:
        fault = _fault(state)
    except Exception:  # entries of any kind
        fault = _DAMAGED
    if fault:
        refuse(f"{path} {fault}")
    return state


def save_data(state: Any, path: str | Path) -> None:
    """As torch.save, but equal content makes equal bytes: the file's name is no part of it.

    Raises:
        OSError, RuntimeError: it cannot be written.
    """
    with open(path, "wb") as file:
        torch.save(state, file)


def write_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint under a temporary name and rename it.

    Raises:
        SystemExit: one line, when it cannot be written; nothing is left then.
    """
    # torch reports a full disk as a RuntimeError.
    with refusing(f"{path} cannot be written", OSError, RuntimeError), replacing(path) as temporary:
        save_data(state, temporary)


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
    return load_model_and_task(path, data)[0].eval()


def load_model_and_task(path: str | Path, data: str | Path) -> tuple[nn.Module, Any]:
    """As :func:`load_model`, with fairseq's task, which has the dictionaries."""
    read_checkpoint(path)
    if os.pathsep in str(data):
        refuse(f"--data {data}: fairseq splits names at '{os.pathsep}'; name a link without one")
    with refusing(f"{path} does not load with the dictionaries of --data {data}"):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides={"data": str(data)}
        )
    return models[0], task


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
    saved = model_settings(state)
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
) -> nn.Module:
    """Copy a checkpoint with every prunable weight of |w| < tolerance set to zero.

    Args:
        path: the checkpoint; stays as it is.
        output: the copy, without optimizer state; replaced when it exists.
        tolerance: magnitude below which a weight goes.
        data: prepared corpus, for the dictionaries.

    Returns:
        The model of the copy, in evaluation mode, on the CPU.
    """
    model = load_model(path, data)
    zero_small_weights_(model, tolerance)
    state = read_checkpoint(path)
    # Only what the file had: a loaded model may hold buffers that its checkpoint does not.
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    state["last_optimizer_state"] = None
    write_checkpoint(state, output)
    return model
