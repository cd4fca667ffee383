"""What fairseq loses when a run is killed and started again, so that it stays the same run.

- Batches are made once, in the epoch in which a process starts, in an order that depends on that
  epoch: a run resumed in epoch 5 goes through other batches than one that was never killed.
- The position inside an epoch is kept in batches of one worker, which is wrong for another number
  of workers.
- checkpoint_last.pt may be half-written, where a machine lost its power or fairseq copied it
  without this plugin.
- The count behind --patience is not kept, and a run that had reached --max-update makes one
  update more.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import shutil
import sys
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from fairseq.data.iterators import EpochBatchIterator
from omegaconf import OmegaConf

from neuroprune_fairseq.compact.sizes import SETTING, set_sizes_, sizes_in
from neuroprune_fairseq.files.checkpoint import (
    MADE_EARLIER,
    is_of_an_earlier_version,
    load_data,
    model_settings,
)
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.plugin.fitting import check_task_state, check_training_state, run_settings

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "checkpoint_last.pt"


class RunIterator(EpochBatchIterator):
    """fairseq's iterator over a run's batches; any number of workers can take up its position."""

    @classmethod
    def of(cls, iterator: EpochBatchIterator, epoch: int) -> RunIterator:
        """The same iterator over the same batches, about to begin ``epoch`` (from 1)."""
        # Each of its arguments is kept as an attribute of the same name.
        names = [name for name in inspect.signature(EpochBatchIterator).parameters]
        settings = {name: getattr(iterator, name) for name in names}
        return cls(**{**settings, "epoch": epoch})

    def state_dict(self) -> dict[str, Any]:
        """As fairseq's, with the number of workers among whom the batches were shared."""
        return {**super().state_dict(), "num_shards": self.num_shards}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved position; none of the batches that are left is skipped.

        With another number of workers that does not divide the batches done so far, the last
        few of them, fewer than there are workers, are trained on again.
        """
        seen = state_dict.get("iterations_in_epoch", 0) * state_dict.get(
            "num_shards", self.num_shards
        )
        super().load_state_dict({**state_dict, "iterations_in_epoch": seen // self.num_shards})


def rescue_last_checkpoint(save_dir: str | Path) -> None:
    """Replace a half-written checkpoint_last.pt by the newest whole checkpoint beside it.

    fairseq writes a checkpoint under its first name, then copies it to its other names, of which
    this is the last. So where this one is half-written its source is whole, and is the newest.

    Args:
        save_dir: the run's folder; without a checkpoint_last.pt nothing happens.

    Raises:
        SystemExit: one line, when there is no whole checkpoint.
    """
    last = Path(save_dir) / LAST_CHECKPOINT
    if not last.is_file() or zipfile.is_zipfile(last):
        return
    others = [path for path in last.parent.glob("checkpoint*.pt") if path != last]
    whole = [path for path in others if zipfile.is_zipfile(path)]
    if not whole:
        refuse(f"{last} is damaged and no other checkpoint is there; remove it to start anew")
    newest = max(whole, key=lambda path: path.stat().st_mtime_ns)
    logger.warning(f"{last} is half-written; going on from {newest.name}, the newest whole one")
    temporary = last.with_name(f"{last.name}.tmp")
    shutil.copyfile(newest, temporary)
    os.replace(temporary, last)


def checkpoint_to_start_from(settings: Any) -> str | None:
    """The file that a training run loads first, by fairseq's own rules.

    Args:
        settings: of the run, with save_dir, restore_file and finetune_from_model.

    Returns:
        Its path, whether it exists or not; None for a run that starts anew.
    """
    suffix = getattr(settings, "checkpoint_suffix", None) or ""
    if settings.restore_file != LAST_CHECKPOINT:
        return settings.restore_file.replace(".pt", f"{suffix}.pt")
    last = os.path.join(settings.save_dir, LAST_CHECKPOINT.replace(".pt", f"{suffix}.pt"))
    if os.path.exists(last):
        return last
    return getattr(settings, "continue_once", None) or settings.finetune_from_model


def check_start(settings: Any, task: str) -> tuple[str, dict[str, Any]] | None:
    """Refuse to train from a checkpoint that is missing, cannot be read, or is of another run.

    Args:
        settings: of the task, with plugin.flags.TaskFlags. fairseq would begin anew where
            --restore-file is missing; a run that is resumed needs --finetune-from-model no more.
        task: name of the task's class.

    Returns:
        The file and its content, tensors read where they are looked at; None for a run that
        starts anew.

    Raises:
        SystemExit: one line that names the file.
    """
    files = {name: getattr(settings, name) for name in ("save_dir", "restore_file")}
    resumed = checkpoint_to_start_from(Namespace(**files, finetune_from_model=None))
    path = resumed or settings.finetune_from_model
    if path is None:
        return None
    state = load_data(path, lazily=True)
    if not isinstance(state, dict) or "model" not in state:
        refuse(f"{path} is no checkpoint of fairseq-train (it lacks 'model')")
    if resumed:
        check_task_state(path, state, task)
        check_training_state(path, state, run_settings(settings))
    return path, state


def follow_checkpoint_(settings: Any) -> None:
    """Give a run the sizes of the compact checkpoint that it starts from, if it does, in place.

    Args:
        settings: of the run's model; where they are a Namespace, of the whole run.

    Raises:
        SystemExit: one line, when the checkpoint is one that this version no longer reads.
    """
    run = settings
    if OmegaConf.is_config(settings):
        run = getattr(settings._get_parent(), "checkpoint", None)
    path = checkpoint_to_start_from(run) if hasattr(run, "restore_file") else None
    if path is None or not os.path.isfile(path) or SETTING in settings:
        return  # a missing file is fairseq's to report
    state = load_data(path, lazily=True)
    saved = model_settings(state) if isinstance(state, dict) else None
    if saved is not None and is_of_an_earlier_version(saved):
        refuse(f"{path} {MADE_EARLIER}")
    if saved is not None:
        set_sizes_(settings, sizes_in(saved))


def early_stopping() -> dict[str, Any]:
    """fairseq's memory of --patience, to read and to update: ``best`` and ``num_runs``.

    fairseq keeps it as attributes of a function of the training program, which may be the
    main program (``python -m fairseq_cli.train``) or a module of it.
    """
    program = sys.modules["__main__"]
    if not hasattr(program, "should_stop_early"):
        program = importlib.import_module("fairseq_cli.train")
    return vars(program.should_stop_early)


def leave_if_finished(num_updates: int, max_update: int, patience: int) -> None:
    """End the program when the run that was resumed had come to its end.

    Args:
        num_updates: updates done so far, by fairseq's count.
        max_update: --max-update, 0 for none.
        patience: --patience, -1 for none.

    Raises:
        SystemExit: with status 0, without having changed anything.
    """
    if 0 < max_update <= num_updates:
        reason = f"--max-update {max_update} was reached"
    elif 0 < patience <= early_stopping().get("num_runs", 0):
        reason = f"--patience {patience} was used up"
    else:
        return
    logger.info(f"nothing is left to do: {reason}")
    raise SystemExit(0)
