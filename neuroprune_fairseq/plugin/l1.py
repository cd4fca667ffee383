"""Plain l1 on the weights that NeuroPrune penalises: its sparsity baseline."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterionConfig,
)

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.method.penalties import l1_penalty
from neuroprune_fairseq.plugin.criterion import NeuropruneCriterion
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


@dataclass
class L1CriterionConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Flags of the plain l1 penalty."""

    l1_penalty_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight, per token of loss, of the sum of |w| over the q, k, v, fc1 and "
            "fc2 weights; 0 leaves them alone"
        },
    )
    near_zero: float = field(
        default=1e-4,
        metadata={"help": "a weight up to this magnitude counts as zero in the logged sparsity"},
    )


@register_criterion("label_smoothed_cross_entropy_l1", dataclass=L1CriterionConfig)
class L1Criterion(NeuropruneCriterion):
    """NeuroPrune's criterion with another penalty: same weights, same scale, same meters."""

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size=0,
        report_accuracy=False,
        l1_penalty_weight=0.0,
        near_zero=1e-4,
    ):
        super().__init__(
            task,
            sentence_avg,
            label_smoothing,
            ignore_prefix_size,
            report_accuracy,
            near_zero=near_zero,
        )
        if not 0 <= l1_penalty_weight < float("inf"):
            refuse(f"--l1-penalty-weight {l1_penalty_weight} must be a finite number >= 0")
        self.l1_penalty_weight = l1_penalty_weight

    def penalty(self, model):
        """The weighted l1 norm, None when its weight is 0; scalar, per token of loss."""
        if not self.l1_penalty_weight:
            return None
        return self.l1_penalty_weight * l1_penalty([*attention_blocks(model), *mlp_blocks(model)])
