"""Label-smoothed cross-entropy with the penalties of NeuroPrune (Algorithm 1's objective).

No postponed annotations here and in task.py: fairseq reads its flags' types off the dataclass.
"""

from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor, nn

from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.method.penalties import attention_penalty, mlp_penalty
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

SOLVERS = ("subgradient", "proximal")


@dataclass
class NeuropruneCriterionConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Flags of the criterion."""

    attn_penalty_weight: float = field(
        default=0.0,
        metadata={
            "help": "alpha: weight of R_attn (Eq. 2) per token of loss. What works depends on "
            "the number of updates; 0 leaves attention alone"
        },
    )
    mlp_penalty_weight: float = field(
        default=0.0,
        metadata={
            "help": "beta: weight of R_mlp (Eq. 1) per token of loss. What works depends on "
            "the number of updates; 0 leaves the MLPs alone"
        },
    )
    near_zero: float = field(
        default=1e-4,
        metadata={"help": "epsilon: a weight below this magnitude counts as missing in Eq. 1"},
    )
    penalty_solver: str = field(
        default="subgradient",
        metadata={
            "help": "how the penalties act: subgradient, in the loss as in the paper (weights get "
            "small), or proximal, after every optimizer step (exact zeros; needs the task "
            "translation_neuroprune)"
        },
    )


@register_criterion("label_smoothed_cross_entropy_neuroprune", dataclass=NeuropruneCriterionConfig)
class NeuropruneCriterion(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy plus alpha R_attn + beta R_mlp in training.

    fairseq sums the loss over tokens and divides the gradient by sample_size later, so
    the penalty is multiplied by the batch's sample_size: its gradient is then that of a
    penalty on the per-token loss, whatever --update-freq, batch size or number of workers.

    The logged ``loss`` is always the plain one; validation computes nothing else.
    """

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size=0,
        report_accuracy=False,
        attn_penalty_weight=0.0,
        mlp_penalty_weight=0.0,
        near_zero=1e-4,
        penalty_solver="subgradient",
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        for flag, value in (
            ("--attn-penalty-weight", attn_penalty_weight),
            ("--mlp-penalty-weight", mlp_penalty_weight),
            ("--near-zero", near_zero),
        ):
            if not 0 <= value < float("inf"):
                refuse(f"{flag} {value} must be a finite number >= 0")
        check_choice("--penalty-solver", penalty_solver, SOLVERS)
        if penalty_solver == "proximal" and not getattr(task, "makes_proximal_steps", False):
            refuse("--penalty-solver proximal needs --task translation_neuroprune")
        self.attn_penalty_weight = attn_penalty_weight
        self.mlp_penalty_weight = mlp_penalty_weight
        self.near_zero = near_zero
        self.penalty_solver = penalty_solver
        self._released = False

    def release(self) -> None:
        """Drop the penalties for the rest of the run: the targets are reached."""
        self._released = True

    @property
    def shrinks(self) -> bool:
        """Whether the task must make proximal steps for the penalties."""
        weighted = self.attn_penalty_weight or self.mlp_penalty_weight
        return self.penalty_solver == "proximal" and bool(weighted) and not self._released

    def penalty(self, model: nn.Module) -> Optional[Tensor]:
        """The weighted sum alpha R_attn + beta R_mlp, None when both weights are 0.

        Returns:
            Scalar, fp32, on the scale of the loss per token.
        """
        terms = []
        if self.attn_penalty_weight:
            attn = attention_penalty(attention_blocks(model))
            terms.append(self.attn_penalty_weight * attn)
        if self.mlp_penalty_weight:
            mlp = mlp_penalty(mlp_blocks(model), self.near_zero)
            terms.append(self.mlp_penalty_weight * mlp)
        return sum(terms) if terms else None

    @torch.no_grad()
    def penalty_values(self, model: nn.Module) -> dict[str, float]:
        """Unweighted r_attn and r_mlp of the model, for the meters."""
        return {
            "r_attn": attention_penalty(attention_blocks(model)).item(),
            "r_mlp": mlp_penalty(mlp_blocks(model), self.near_zero).item(),
        }

    def forward(self, model, sample, reduce=True):
        """As fairseq's; in training the returned loss includes the penalty.

        Returns:
            loss (scalar, summed over tokens), sample_size, logging_output (plain loss).
        """
        loss, sample_size, logging_output = super().forward(model, sample, reduce)
        in_loss = model.training and reduce and self.penalty_solver == "subgradient"
        penalty = self.penalty(model) if in_loss and not self._released else None
        if penalty is not None:
            loss = loss + sample_size * penalty
        return loss, sample_size, logging_output
