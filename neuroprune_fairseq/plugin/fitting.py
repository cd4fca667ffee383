"""Whether the checkpoint that a run starts from fits it, before fairseq finds that it does not."""

from __future__ import annotations

import copy
import re
from argparse import Namespace
from typing import Any, NoReturn

import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor, nn

from neuroprune_fairseq.files.checkpoint import model_settings, settings_group
from neuroprune_fairseq.files.errors import refuse

# What decides which weights a model has, or what they mean.
_SHAPING = re.compile("arch|.*(_layers|_dim|_heads|_pos|normalize_before|layernorm.*)|share_.*")
_MOST_NAMED = 4


def run_settings(settings: Any) -> Namespace:
    """What is compared of a run's settings, from those of its task.

    Args:
        settings: part of fairseq's settings of the whole run; or a Namespace of them all.

    Returns:
        criterion, optimizer, lr_scheduler: names, None where it is unknown; half: the flag of
        half-precision training, "" for none; reset_optimizer, reset_lr_scheduler.
    """
    run = settings._get_parent() if OmegaConf.is_config(settings) else None

    def of(group: str, name: str) -> Any:
        found = getattr(run, group, None) if run is not None else settings
        return getattr(found, name, None)

    names = ("criterion", "optimizer", "lr_scheduler")
    halves = ("memory_efficient_fp16", "memory_efficient_bf16", "fp16", "bf16", "amp")
    half = next((name for name in halves if of("common", name)), "")
    return Namespace(
        **{name: of(name, "_name" if run is not None else name) for name in names},
        half=f"--{half}".replace("_", "-") if half else "",
        reset_optimizer=of("checkpoint", "reset_optimizer"),
        reset_lr_scheduler=of("checkpoint", "reset_lr_scheduler"),
    )


def check_task_state(path: str, state: dict[str, Any], task: str) -> None:
    """Refuse to go on from a run of another task, or of an earlier version of this package.

    Args:
        path: of the checkpoint.
        state: its content.
        task: name of the run's task class.

    Raises:
        SystemExit: one line.
    """
    extra = state.get("extra_state")
    for name, own in extra.items() if isinstance(extra, dict) else ():
        if not str(name).endswith("Task"):
            continue
        anew = "or start a run of its own with --finetune-from-model"
        if not isinstance(own, dict) or "pruner" not in own:
            refuse(
                f"{path} is of a run that an earlier version of this package began ({name}); "
                f"finish it with that version, {anew} {path}"
            )
        if name != task:
            refuse(f"{path} is of a run of another --task ({name}); name that one, {anew} {path}")


def _optimizer_class(run: Namespace) -> str:
    """The class that fairseq's Trainer makes of --optimizer and the precision."""
    if run.half.startswith("--memory-efficient"):
        return "MemoryEfficientFP16Optimizer"
    if run.half:
        return "AMPOptimizer" if run.half == "--amp" else "FP16Optimizer"
    return getattr(OPTIMIZER_REGISTRY.get(run.optimizer), "__name__", "")


def check_training_state(path: str, state: dict[str, Any], run: Namespace) -> None:
    """Refuse to resume with another criterion, optimizer, precision or learning rate schedule.

    Args:
        path: of the checkpoint.
        state: its content.
        run: as :func:`run_settings` gives it.

    Raises:
        SystemExit: one line that names the flag and the one that forgets the state.
    """
    history = state.get("optimizer_history")
    if run.reset_optimizer or not history or state.get("last_optimizer_state") is None:
        return
    last, again = history[-1], f"resume as {path} was trained, or with --reset-optimizer"
    criterion = getattr(CRITERION_REGISTRY.get(run.criterion), "__name__", "")
    if last.get("criterion_name") not in (criterion, None):
        refuse(f"--criterion {run.criterion}: it was {last['criterion_name']}; {again}")
    optimizer = _optimizer_class(run)
    if last.get("optimizer_name") not in (optimizer, None):
        flag = f"--optimizer {run.optimizer}" + (f" {run.half}" if run.half else "")
        refuse(f"{flag}: it was {last['optimizer_name']}, now {optimizer}; {again}")
    saved = settings_group(state, "lr_scheduler")
    old = getattr(saved, "lr_scheduler" if state.get("args") else "_name", None)
    if old not in (run.lr_scheduler, None) and not run.reset_lr_scheduler:
        again = again.replace("--reset-optimizer", "--reset-lr-scheduler")
        refuse(f"--lr-scheduler {run.lr_scheduler}: it was {old}; {again}")


def _differences(saved: Namespace, settings: Any) -> dict[str, Any]:
    """What of a model's settings differs, by flag: as it was saved."""
    found = {}
    for name, value in vars(saved).items():
        here = getattr(settings, name, None) if name in settings else None
        if name == "arch":
            here = here or getattr(settings, "_name", None)
        if _SHAPING.fullmatch(name) and here is not None and here != value:
            found[f"--{name.replace('_', '-')}"] = value
    return found


def _first_misfit(weights: dict[str, Any], wanted: dict[str, Tensor]) -> str:
    for name, weight in wanted.items():
        if name not in weights:
            return f"it lacks {name}"
        if weights[name].shape != weight.shape:
            here, there = (tuple(tensor.shape) for tensor in (weight, weights[name]))
            return f"{name} is {there} there and {here} here"
    return next((f"{name} is too much" for name in weights if name not in wanted), "")


def _loads(model: nn.Module, weights: dict[str, Any], settings: Any) -> bool:
    """Whether a copy of a model takes these weights; models rename and add some themselves."""
    with torch.random.fork_rng(devices=[]):
        try:
            trial = copy.deepcopy(model)
            trial.load_state_dict(dict(weights), strict=True, model_cfg=settings)
        except Exception:  # whatever a model says of weights that are not its own
            return False
    return True


def _refuse_misfit(path: str, saved: Namespace | None, settings: Any, misfit: str) -> NoReturn:
    differ = _differences(saved, settings) if saved else {}
    flags = " ".join(f"{flag} {value}" for flag, value in list(differ.items())[:_MOST_NAMED])
    advice = f"it was trained with {flags}" if flags else "was it made for another dictionary?"
    refuse(f"{path} does not fit the model ({misfit}): {advice}")


def check_model(path: str, state: dict[str, Any], model: nn.Module, settings: Any) -> None:
    """Refuse a model that has other weights than the checkpoint, or another number of heads.

    Args:
        path: of the checkpoint.
        state: its content.
        model: as the command builds it; stays as it is.
        settings: of the model.

    Raises:
        SystemExit: one line that names what differs, and the flags of the checkpoint's model.
    """
    weights, saved = state["model"], model_settings(state)
    misfit = _first_misfit(weights, model.state_dict())
    if misfit and not _loads(model, weights, settings):
        _refuse_misfit(path, saved, settings, misfit)
    for flag in _differences(saved, settings) if saved else ():
        if flag.endswith("-attention-heads"):
            _refuse_misfit(path, saved, settings, "other heads share its weights")
