"""What fairseq reads: checkpoints, their settings, the models built from them."""

from __future__ import annotations

import argparse
import collections
import functools
import typing

from neuroprune_fairseq.files.errors import reason, refuse, refusing

# What fairseq until 0.8 kept its averages of the loss in, and saved as objects.
METERS = ("AverageMeter", "TimeMeter", "StopwatchMeter")


def _stand_in(name: str) -> type:
    """A class under the name of one of METERS that does nothing; saved again, it is empty."""
    empty = {"__module__": "fairseq.meters", "__reduce__": lambda _: (collections.OrderedDict, ())}
    return type(name, (), empty)


def allow_fairseq_checkpoints() -> None:
    """Let torch.load read fairseq's checkpoints without weights_only=False.

    fairseq stores its configuration as argparse.Namespace, which torch's safe
    loader refuses; a Namespace only holds attributes, so allowing it runs no code. Nor do old
    checkpoints' meters, of which only the names are known here: fairseq no longer reads them.
    """
    import torch

    torch.serialization.add_safe_globals([argparse.Namespace, *map(_stand_in, METERS)])


def take_known_settings_only() -> None:
    """Let fairseq use of a checkpoint's settings only what files.settings lets through.

    fairseq gives settings to eval() as it builds a model, and has no hook between that and
    loading. Its changes for old checkpoints use settings, too, so they are checked before these;
    what the caller overrides is no stranger's and comes after.
    """
    from fairseq import checkpoint_utils
    from fairseq.dataclass.utils import overwrite_args_by_name

    from neuroprune_fairseq.files import checkpoint, settings

    load, upgrade = checkpoint_utils.load_checkpoint_to_cpu, checkpoint_utils._upgrade_state_dict
    if hasattr(upgrade, "__wrapped__"):
        return
    left_out: list[str] = []

    @functools.wraps(upgrade)
    def check_and_upgrade(state):
        left_out[:] = settings.take_settings_(state)
        checkpoint.add_history_(state)
        return upgrade(state)

    @functools.wraps(load)
    def load_checked(path, arg_overrides=None, load_on_all_ranks=False):
        try:
            state = load(path, None, load_on_all_ranks)
        except OSError:
            raise
        except Exception as error:  # whatever fairseq comes upon in a file of any kind
            refuse(f"{path} {checkpoint.unreadable(error)} ({reason(error)})")
        checkpoint.log_left_out(path, left_out)
        for name, value in (arg_overrides or {}).items():
            if state.get("args") is not None:
                setattr(state["args"], name, value)
        if arg_overrides and state.get("cfg") is not None:
            overwrite_args_by_name(state["cfg"], arg_overrides)
        return state

    checkpoint_utils._upgrade_state_dict = check_and_upgrade
    checkpoint_utils.load_checkpoint_to_cpu = load_checked


def build_models_in_their_sizes() -> None:
    """Let every fairseq model be built in the sizes that its settings name (compact.sizes).

    Tasks and tools build models through this one function, which hands the settings to the
    model's own class: a compact model of any family keeps its architecture, and no hook lies
    between the building of a model and the loading of its weights. A training run takes the
    sizes from the checkpoint that it is going to load.
    """
    from fairseq import models

    from neuroprune_fairseq.compact import sizes
    from neuroprune_fairseq.files.checkpoint import MADE_EARLIER, is_of_an_earlier_version
    from neuroprune_fairseq.plugin.resume import follow_checkpoint_

    build = models.build_model
    if hasattr(build, "__wrapped__"):
        return

    @functools.wraps(build)
    def build_in_size(cfg: typing.Any, task: typing.Any, from_checkpoint: bool = False):
        if is_of_an_earlier_version(cfg):
            refuse(f"the checkpoint {MADE_EARLIER}")
        if not from_checkpoint:
            follow_checkpoint_(cfg)
        config = sizes.sizes_in(cfg)
        sizes.set_sizes_(cfg, {})  # which the settings of a dataclass do not know
        model = build(cfg, task, from_checkpoint)
        with refusing(f"{sizes.SETTING} of the compact checkpoint does not fit", ValueError):
            sizes.reshape_(model, config)
        sizes.set_sizes_(cfg, config)
        return model

    models.build_model = build_in_size


def allow_fairseq_broadcasts() -> None:
    """Let several workers exchange what the first one read from a checkpoint.

    fairseq sends it through torch.save and torch.load, with its settings as OmegaConf's
    containers and with placeholders for tensors. All of these only hold values.
    """
    import omegaconf
    import torch
    from fairseq.distributed import utils

    containers = [omegaconf.DictConfig, omegaconf.ListConfig, omegaconf.AnyNode]
    details = [omegaconf.base.ContainerMetadata, omegaconf.base.Metadata, typing.Any]
    plain = [dict, int, list, collections.defaultdict]
    allowed = [*containers, *details, *plain, utils._TensorPlaceholder]
    torch.serialization.add_safe_globals(allowed)


def _when_loaded(mend: typing.Callable[[dict[str, typing.Any]], None]) -> None:
    """Apply this to the content of every checkpoint that fairseq loads from now on."""
    from fairseq import checkpoint_utils

    load: typing.Any = checkpoint_utils.load_checkpoint_to_cpu
    if not hasattr(load, "mends"):
        mends: list[typing.Callable[[dict[str, typing.Any]], None]] = []

        @functools.wraps(load)
        def load_and_mend(*args: typing.Any, **kwargs: typing.Any) -> dict[str, typing.Any]:
            state = load(*args, **kwargs)
            for each in mends:
                each(state)
            return state

        vars(load_and_mend)["mends"] = mends
        checkpoint_utils.load_checkpoint_to_cpu = load_and_mend
    known = vars(checkpoint_utils.load_checkpoint_to_cpu)["mends"]
    if mend not in known:
        known.append(mend)


def _with_ema(state: dict[str, typing.Any]) -> None:
    if isinstance(state.get("extra_state"), dict):
        state["extra_state"].setdefault("ema", state["model"])


def start_ema_from_weights() -> None:
    """Let a run with --store-ema begin from a checkpoint that holds no EMA.

    fairseq means to start the EMA from the checkpoint's weights, but its Trainer deletes them
    before it does (KeyError: 'model'), and no hook lies between. So a checkpoint that is
    loaded from now on gives its weights as its EMA where it has none.
    """
    _when_loaded(_with_ema)


def _with_best_loss(state: dict[str, typing.Any]) -> None:
    extra, history = state.get("extra_state") or {}, state.get("optimizer_history")
    loss, place = extra.get("val_loss"), extra.get("train_iterator") or {}
    if loss is None or not history or place.get("iterations_in_epoch") != 0:
        return
    schedule = history[-1].get("lr_scheduler_state") or {}
    if "best" in schedule:
        schedule["best"] = loss if schedule["best"] is None else min(schedule["best"], loss)


def remember_best_loss() -> None:
    """Let a resumed run know the validation loss of the epoch that its checkpoint ends.

    fairseq tells the learning rate's scheduler an epoch's loss after it has saved the epoch's
    checkpoint, where no hook lies. So the scheduler's best loss is mended as it is loaded.
    """
    _when_loaded(_with_best_loss)
