"""fairseq's translation task that removes redundant heads after every epoch (Algorithm 1)."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task

from neuroprune_fairseq.errors import refuse
from neuroprune_fairseq.precision import master_weights
from neuroprune_fairseq.pruning import MERGES, PrunedHeads, eliminate_redundant_heads
from neuroprune_fairseq.pruning_task import PruningTask, PruningTaskConfig


@dataclass
class TranslationNeuropruneConfig(PruningTaskConfig):
    """Flags of the task."""

    head_distance_threshold: Optional[float] = field(  # noqa: UP045  (fairseq knows no X | None)
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


@register_task("translation_neuroprune", dataclass=TranslationNeuropruneConfig)
class TranslationNeuropruneTask(PruningTask):
    """Translation with NeuroPrune's head pruning; the penalties are the criterion's."""

    def __init__(self, cfg: TranslationNeuropruneConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        threshold = cfg.head_distance_threshold
        if threshold is not None and not threshold >= 0:
            refuse(f"--head-distance-threshold {threshold} is not a distance; it must be >= 0")
        self._pruned_heads: Optional[PrunedHeads] = None  # noqa: UP045

    def start_(self) -> None:
        self._pruned_heads = PrunedHeads(self.model)

    def after_update_(self) -> None:
        if self._pruned_heads:
            with master_weights(self.optimizer):
                self._pruned_heads.zero_()

    def at_epoch_end_(self) -> dict[str, Any]:
        if self.cfg.head_distance_threshold is None:
            return {}
        with master_weights(self.optimizer):
            modules = eliminate_redundant_heads(
                self.model, self.cfg.head_distance_threshold, str(self.cfg.head_merge)
            )
        self._pruned_heads = PrunedHeads(self.model)
        return {"modules": modules}
