"""fairseq's translation task that prunes heads at the end of every epoch (Algorithm 1)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II
from torch import nn

from neuroprune_fairseq import run_log, sparsity
from neuroprune_fairseq.errors import refuse
from neuroprune_fairseq.precision import master_weights
from neuroprune_fairseq.pruning import MERGES, PrunedHeads, eliminate_redundant_heads

METERS = ("r_attn", "r_mlp", "heads_kept", "attn_sparsity", "mlp_sparsity", "total_sparsity")


def _is_master() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@dataclass
class TranslationNeuropruneConfig(TranslationConfig):
    head_distance_threshold: Optional[float] = field(
        default=None,
        metadata={
            "help": "theta: after every epoch, heads whose Q, K, V weights differ by at most "
            "this (largest absolute difference) are similar, and dominated ones are merged "
            "and removed (default: no head is removed)"
        },
    )
    head_merge: ChoiceEnum(MERGES) = field(
        default="out_proj",
        metadata={
            "help": "what a removed head leaves to the head that replaces it: out_proj adds its "
            "out_proj columns, fc1 its columns of fc1 (the paper's wording), none nothing"
        },
    )
    save_dir: str = II("checkpoint.save_dir")
    log_interval: int = II("common.log_interval")


@register_task("translation_neuroprune", dataclass=TranslationNeuropruneConfig)
class TranslationNeuropruneTask(TranslationTask):
    """Translation; pruning runs after an epoch's last update, before validation and saving.

    fairseq calls ``optimizer_step`` for every update, and the train iterator knows whether
    it was the epoch's last, so mid-epoch validation or a stop at --max-update never prunes
    and --disable-validation does not prevent it. All workers hold the same weights and
    come to the same decision; only the master writes neuroprune.jsonl.
    """

    def __init__(self, cfg: TranslationNeuropruneConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        threshold = cfg.head_distance_threshold
        if threshold is not None and not threshold >= 0:
            refuse(f"--head-distance-threshold {threshold} is not a distance; it must be >= 0")
        self._criterion: Optional[nn.Module] = None
        self._train_iterator: Any = None
        self._model: Optional[nn.Module] = None
        self._optimizer: Any = None
        self._pruned_heads: Optional[PrunedHeads] = None
        self._epoch = 0
        self._num_updates = 0
        self._updated = False  # since the last pruning or, in a new process, at all
        self._meters: dict[str, float] = {}

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
        self._model = model
        if self._updated:  # the last chance for the epoch before
            self._end_epoch()
        self._epoch = epoch
        self._pruned_heads = PrunedHeads(model)

    def optimizer_step(self, optimizer, model, update_num):
        super().optimizer_step(optimizer, model, update_num)
        self._optimizer, self._updated, self._num_updates = optimizer, True, update_num + 1
        if self._pruned_heads:
            with master_weights(optimizer):
                self._pruned_heads.zero_()
        if self._train_iterator.end_of_epoch():
            self._end_epoch()
        elif self._num_updates % self.cfg.log_interval == 0:
            self._measure()

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        self._end_epoch_if_missed()

    def state_dict(self):
        # fairseq collects the model's tensors by reference just before it asks the task,
        # so what is pruned here is what the checkpoint holds.
        self._end_epoch_if_missed()
        return super().state_dict()

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        for name, value in self._meters.items():
            metrics.log_scalar(name, value, weight=0, round=4)  # weight 0: the latest value

    # What happens.

    def _end_epoch_if_missed(self) -> None:
        """Prune when the epoch's last batch made no update (fp16 overflow, out of memory)."""
        if self._updated and self._train_iterator.end_of_epoch():
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Algorithm 2 on every module; then measure, and write the epoch's line."""
        self._updated = False
        modules = []
        if self.cfg.head_distance_threshold is not None:
            with master_weights(self._optimizer):
                modules = eliminate_redundant_heads(
                    self._model, self.cfg.head_distance_threshold, str(self.cfg.head_merge)
                )
        self._pruned_heads = PrunedHeads(self._model)
        self._measure()
        if _is_master():
            record = {"epoch": self._epoch, "num_updates": self._num_updates, **self._meters}
            run_log.write_epoch(
                Path(self.cfg.save_dir) / run_log.FILE_NAME, {**record, "modules": modules}
            )

    @torch.no_grad()
    def _measure(self) -> None:
        """Take the six meters from the weights as they are now."""
        near_zero = getattr(self._criterion, "near_zero", 0.0)
        found = sparsity.measure(self._model, tolerance=near_zero)
        if hasattr(self._criterion, "penalty_values"):
            found.update(self._criterion.penalty_values(self._model))
        self._meters = {name: found[name] for name in METERS if name in found}
