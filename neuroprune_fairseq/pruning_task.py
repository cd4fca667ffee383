"""When a translation task may edit the model: the base of every task that prunes.

fairseq calls ``optimizer_step`` for every update, and the train iterator knows whether it
was the epoch's last. So the edit of an epoch runs after its last update and before its
validation and checkpoint; mid-epoch validation or a stop at --max-update never triggers it,
and --disable-validation does not prevent it. All workers hold the same weights and come to
the same decision; only the master writes neuroprune.jsonl.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.logging import metrics
from omegaconf import II
from torch import nn

from neuroprune_fairseq import run_log, sparsity
from neuroprune_fairseq.shrinking import ShrinkingConfig, ShrinkingTask

METERS = ("r_attn", "r_mlp", "heads_kept", "attn_sparsity", "mlp_sparsity", "total_sparsity")


def _is_master() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@dataclass
class PruningTaskConfig(ShrinkingConfig):
    """What a pruning task reads of the run's other settings."""

    save_dir: str = II("checkpoint.save_dir")
    log_interval: int = II("common.log_interval")


class PruningTask(ShrinkingTask):
    """Translation that edits the model after updates and at the end of epochs.

    Subclasses override :meth:`start_`, :meth:`after_update_` and :meth:`at_epoch_end_`;
    when these run, ``self.model`` is the unwrapped model and ``self.optimizer`` fairseq's
    optimizer (None before the first update).
    """

    trains_weights = True  # False: the optimizer's step is left out, all else goes on

    def __init__(self, cfg: PruningTaskConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.model: Optional[nn.Module] = None
        self.num_updates = 0
        self._criterion: Optional[nn.Module] = None
        self._train_iterator: Any = None
        self._epoch = 0
        self._updated = False  # since the last end of an epoch or, in a new process, at all
        self._meters: dict[str, float] = {}

    # For subclasses.

    def start_(self) -> None:
        """An epoch begins, also in a resumed run; the model is at hand."""

    def before_update_(self) -> None:
        """Before every optimizer step; the model holds the gradients of this update."""

    def after_update_(self) -> None:
        """After every optimizer step."""

    def at_epoch_end_(self) -> dict[str, Any]:
        """After the last update of an epoch. Returns entries for the epoch's JSON line."""
        return {}

    # What the hooks below need to know about the run.

    def build_criterion(self, cfg, from_checkpoint=False):
        self._criterion = super().build_criterion(cfg, from_checkpoint)
        return self._criterion

    def get_batch_iterator(self, dataset, *args, **kwargs):
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if dataset is self.datasets.get(self.cfg.train_subset):
            self._train_iterator = iterator
        return iterator

    # When something happens.

    def begin_epoch(self, epoch, model):
        super().begin_epoch(epoch, model)
        self.model = model
        if self._updated:  # the last chance for the epoch before
            self._end_epoch()
        self._epoch = epoch
        self.start_()

    def optimizer_step(self, optimizer, model, update_num):
        self.optimizer = optimizer
        self.before_update_()
        if self.trains_weights:
            super().optimizer_step(optimizer, model, update_num)
        self.num_updates, self._updated = update_num + 1, True
        self.after_update_()
        if self._train_iterator.end_of_epoch():
            self._end_epoch()
        elif self.num_updates % self.cfg.log_interval == 0:
            self._measure()

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        self._end_epoch_if_missed()

    def get_checkpoint_dict(self):
        # fairseq asks for this just before it saves, with or without validation.
        self._end_epoch_if_missed()
        return {}

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        for name, value in self._meters.items():
            metrics.log_scalar(name, value, weight=0, round=4)  # weight 0: the latest value

    # What happens.

    def _end_epoch_if_missed(self) -> None:
        """For an epoch whose last batch made no update (fp16 overflow, out of memory)."""
        if self._updated and self._train_iterator.end_of_epoch():
            self._end_epoch()

    def _end_epoch(self) -> None:
        self._updated = False
        entries = self.at_epoch_end_()
        if "modules" in entries:
            entries["modules"] = self.in_original_numbers(entries["modules"])
        self._measure()
        if _is_master():
            record = {"epoch": self._epoch, "num_updates": self.num_updates, **self._meters}
            path = Path(self.cfg.save_dir) / run_log.FILE_NAME
            run_log.write_epoch(path, {**record, **entries})
        self.shrink_()

    def _measure(self) -> None:
        """Take the meters from the weights as they are now."""
        near_zero = getattr(self._criterion, "near_zero", 0.0)
        found = sparsity.measure(self.model, tolerance=near_zero)
        if hasattr(self._criterion, "penalty_values"):
            found.update(self._criterion.penalty_values(self.model))
        self._meters = {name: found[name] for name in METERS if name in found}
