"""Reading fairseq's checkpoints and their settings; models.py builds what they hold."""

from __future__ import annotations

import argparse
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from fairseq.data import data_utils
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig

from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import LONGEST_REASON, refuse, refusing
from neuroprune_fairseq.files.settings import SettingsError, take_settings_

MADE_EARLIER = "was made compact by an earlier version; run neuroprune-compact on the original"
_DAMAGED = "is damaged, no checkpoint, or holds more than data, which is not loaded"
# Flags of models that are about memory in training.
_OF_A_RUN = {"checkpoint_activations", "min_params_to_wrap", "offload_activations"}
_FOREIGN = re.compile(r"GLOBAL (fairseq\.[\w.]+)")

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


def is_of_an_earlier_version(settings: Any) -> bool:
    """Whether a compact model's settings name its sizes as this package no longer reads them."""
    return "neuroprune_shapes" in settings


def _fault(state: Any) -> str:
    """What makes a file's content no checkpoint to work with, "" if nothing."""
    if not isinstance(state, dict) or "model" not in state or not {"args", "cfg"} & state.keys():
        return "is no checkpoint of fairseq-train (it lacks 'model', or 'args' and 'cfg')"
    weights, settings = state["model"], model_settings(state)
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        return "is no checkpoint of fairseq-train ('model' holds no weights)"
    if settings is None or not isinstance(getattr(settings, "arch", None), (str, type(None))):
        return "is no checkpoint of fairseq-train (it has no settings of a model)"
    if is_of_an_earlier_version(settings):
        return MADE_EARLIER
    for name, weight in weights.items():
        if not weight.isfinite().all():
            return f"is not usable: {name} is not finite; take a checkpoint from before"
    return ""


def unreadable(error: Exception) -> str:
    """What to say of a file that does not load."""
    if isinstance(error, SettingsError):
        return str(error)
    if found := _FOREIGN.search(str(error)):
        return (
            f"holds objects ({found[1]}), which are not loaded; where it was written, save it "
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


def load_data(path: str | Path, lazily: bool = False) -> Any:
    """Load what a file of torch.save holds to the CPU, without running code from it.

    Args:
        path: the file.
        lazily: read tensors only where they are looked at; the file must stay as it is.

    Raises:
        SystemExit: one line, when the file is missing, damaged, or holds more than data.
    """
    if not Path(path).is_file():
        refuse(f"{path}: no such checkpoint")
    try:
        lazily = lazily and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
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


def forget_weights_(state: dict[str, Any]) -> None:
    """Leave of a checkpoint's weights only shapes and types, once a model holds them, in place."""
    state["model"] = {name: weight.to("meta") for name, weight in state["model"].items()}


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


def refuse_split_name(data: str | Path) -> None:
    """Refuse a corpus whose name fairseq takes for the names of several, in one line."""
    if os.pathsep in str(data):
        refuse(f"--data {data}: fairseq splits names at '{os.pathsep}'; name a link without one")


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
    refuse_split_name(data)
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
        ``["--arch=NAME", ...]`` with every flag of the model whose saved value is neither
        the architecture's nor fairseq's own, each in one word with its value; dropout is among
        them, how a run saves memory is not.

    Raises:
        SystemExit: one line, when the architecture is unknown.
    """
    saved = model_settings(state)
    arch = getattr(saved, "arch", None)
    if arch not in ARCH_CONFIG_REGISTRY:
        refuse(f"the checkpoint's architecture {arch!r} is unknown; name one with --arch")
    own = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[arch](own)
    parser = argparse.ArgumentParser(add_help=False)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    defaults = {**_fairseq_defaults(arch), **vars(own)}
    flags = [f"--arch={arch}"]
    for action in parser._actions:
        value = getattr(saved, action.dest, None)
        default = defaults.get(action.dest, action.default)
        if value not in (None, default) and action.dest not in _OF_A_RUN:
            flags += _words(action, value)
    return flags


def _fairseq_defaults(arch: Any) -> dict[str, Any]:
    """What fairseq takes for flags of a model that nobody has set, its architecture included."""
    dataclass = getattr(ARCH_MODEL_REGISTRY[arch], "__dataclass", None) or TransformerConfig
    parser = argparse.ArgumentParser(add_help=False)
    gen_parser_from_dataclass(parser, dataclass(), delete_default=False, with_prefix="")
    return {action.dest: action.default for action in parser._actions}


def _words(action: argparse.Action, value: Any) -> list[str]:
    """A flag with its value, in one word where it takes one, so that no value is a flag."""
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag] if value == action.const else []
    if action.nargs in (None, "?"):
        return [f"{flag}={value}"]
    values = [str(word) for word in (value if isinstance(value, (list, tuple)) else [value])]
    return [flag, *values] if values and not any(word.startswith("-") for word in values) else []
