"""Reading fairseq's checkpoints: their settings, their model, and a copy with fewer weights."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import nn

from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import LONGEST_REASON, refuse, refusing
from neuroprune_fairseq.files.settings import SettingsError, take_settings_
from neuroprune_fairseq.method.pruning import zero_small_weights_

_DAMAGED = "is damaged, no checkpoint, or holds more than data, which is not loaded"
_FOREIGN = re.compile(r"GLOBAL (fairseq[\w.]*meters\.\w+)")

logger = logging.getLogger(__name__)


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


def _fault(state: Any) -> str:
    """What makes a file's content no checkpoint to work with, "" if nothing."""
    if not isinstance(state, dict) or "model" not in state or not {"args", "cfg"} & state.keys():
        return "is no checkpoint of fairseq-train (it lacks 'model', or 'args' and 'cfg')"
    weights, settings = state["model"], model_settings(state)
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        return "is no checkpoint of fairseq-train ('model' holds no weights)"
    if settings is None or not isinstance(getattr(settings, "arch", None), (str, type(None))):
        return "is no checkpoint of fairseq-train (it has no settings of a model)"
    for name, weight in weights.items():
        if not weight.isfinite().all():
            return f"is not usable: {name} is not finite; take a checkpoint from before"
    return ""


def unreadable(error: Exception) -> str:
    """What to say of a file that does not load."""
    if isinstance(error, SettingsError):
        return str(error)
    if meters := _FOREIGN.search(str(error)):
        return (
            f"holds objects ({meters[1]}), which are not loaded; where it was written, save it "
            'without them: torch.save({"args": state["args"], "model": state["model"]}, FILE)'
        )
    return _DAMAGED


def add_history_(state: dict[str, Any]) -> None:
    """Give a checkpoint of settings and weights alone the entries that fairseq looks for."""
    if not state.get("optimizer_history") and "optimizer" not in state:
        history = {"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        state.update(optimizer_history=[history], last_optimizer_state=None)
    if not state.get("extra_state") and "epoch" not in state:
        state["extra_state"] = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}


def log_left_out(path: str | Path, names: list[str]) -> None:
    """Note which settings of a checkpoint are not used."""
    if names:
        logger.warning(f"{path}: settings that are not used: {', '.join(names)[:LONGEST_REASON]}")


def load_data(path: str | Path) -> Any:
    """Load what a file of torch.save holds to the CPU, without running code from it.

    Raises:
        SystemExit: one line, when the file is missing, damaged, or holds more than data.
    """
    if not Path(path).is_file():
        refuse(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling comes upon in a file of any kind
        refuse(f"{path} {unreadable(error)}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's content to the CPU, without running code from it.

    Args:
        path: a file written by fairseq-train.

    Returns:
        fairseq's dictionary, with finite weights in ``model`` (state dict) and the settings of a
        model (:func:`model_settings`); ``cfg`` is None where all settings are in ``args``, as
        fairseq wrote them before it had ``cfg``.

    Raises:
        SystemExit: one line, when the file is missing, damaged, no fairseq checkpoint, or
            one with weights that are not finite or code in its settings.
    """
    state = load_data(path)
    try:
        notes = take_settings_(state) if isinstance(state, dict) else []
        fault = _fault(state)
    except SettingsError as error:
        fault = str(error)
    except Exception:  # entries of any kind
        fault = _DAMAGED
    if fault:
        refuse(f"{path} {fault}")
    log_left_out(path, notes)
    return {"cfg": None, **state}


def write_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint under a temporary name and rename it.

    Raises:
        SystemExit: one line, when it cannot be written; nothing is left then.
    """
    # torch reports a full disk as a RuntimeError.
    with refusing(f"{path} cannot be written", OSError, RuntimeError), replacing(path) as temporary:
        torch.save(state, temporary)


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
        ``["--arch=NAME", ...]`` with every flag of the model whose saved value is not
        the architecture's own, each in one word with its value; dropout is among them.

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
    flags = [f"--arch={arch}"]
    for action in parser._actions:
        value = getattr(saved, action.dest, None)
        if value is not None and value != getattr(defaults, action.dest, None):
            flags += _words(action, value)
    return flags


def _words(action: argparse.Action, value: Any) -> list[str]:
    """A flag with its value, in one word where it takes one, so that no value is a flag."""
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag] if value == action.const else []
    if action.nargs in (None, "?"):
        return [f"{flag}={value}"]
    values = [str(word) for word in (value if isinstance(value, (list, tuple)) else [value])]
    return [flag, *values] if values and not any(word.startswith("-") for word in values) else []


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
    # Old files have entries that today's models lack (position embeddings' _float_tensor).
    new = model.state_dict()
    state["model"] = {
        name: new[name].to(old.dtype) if name in new else old
        for name, old in state["model"].items()
    }
    state["last_optimizer_state"] = None
    write_checkpoint(state, output)
