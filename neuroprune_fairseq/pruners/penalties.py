"""The penalties of a run: in the loss, or as proximal steps after the optimizer's."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import Tensor, nn

from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.method.penalties import attention_penalty, l1_penalty, mlp_penalty
from neuroprune_fairseq.method.proximal import proximal_step_
from neuroprune_fairseq.pruners.base import check_not_negative
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

SOLVERS = ("subgradient", "proximal")


@dataclass
class PenaltyFlags:
    """Flags of the penalties."""

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
    l1_penalty_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight, per token of loss, of the sum of |w| over the q, k, v, fc1 and fc2 "
            "weights: the plain l1 baseline; 0 leaves them alone"
        },
    )
    near_zero: float = field(
        default=1e-4,
        metadata={
            "help": "epsilon: a weight below this magnitude counts as missing in Eq. 1, and as "
            "zero in the logged sparsity"
        },
    )
    penalty_solver: str = field(
        default="subgradient",
        metadata={
            "help": "how the penalties act: subgradient, in the loss as in the paper (weights get "
            "small), or proximal, after every optimizer step (exact zeros; needs a task with "
            "a pruner)"
        },
    )


class Penalties:
    """The weighted sum alpha R_attn + beta R_mlp + lambda l1, until it is released."""

    def __init__(self, flags: PenaltyFlags) -> None:
        """Take over the flags.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        check_not_negative(
            attn_penalty_weight=flags.attn_penalty_weight,
            mlp_penalty_weight=flags.mlp_penalty_weight,
            l1_penalty_weight=flags.l1_penalty_weight,
            near_zero=flags.near_zero,
        )
        check_choice("--penalty-solver", flags.penalty_solver, SOLVERS)
        self.is_proximal = flags.penalty_solver == "proximal"
        if self.is_proximal and flags.l1_penalty_weight:
            refuse("--penalty-solver proximal is for the attention and MLP penalties; drop it")
        self.attn, self.mlp = flags.attn_penalty_weight, flags.mlp_penalty_weight
        self.l1, self.near_zero = flags.l1_penalty_weight, flags.near_zero
        self.released = False  # True: the targets are reached, the penalties act no more

    @property
    def makes_steps(self) -> bool:
        """Whether :meth:`proximal_step_` has anything to do."""
        return self.is_proximal and bool(self.attn or self.mlp) and not self.released

    def in_loss(self, model: nn.Module) -> Optional[Tensor]:
        """What the loss of a batch gains, per token.

        Returns:
            Scalar, fp32, differentiable; None where there is nothing to add.
        """
        if self.is_proximal or self.released:
            return None
        terms = []
        if self.attn:
            terms.append(self.attn * attention_penalty(attention_blocks(model)))
        if self.mlp:
            terms.append(self.mlp * mlp_penalty(mlp_blocks(model), self.near_zero))
        if self.l1:
            terms.append(self.l1 * l1_penalty([*attention_blocks(model), *mlp_blocks(model)]))
        return sum(terms) if terms else None

    def proximal_step_(self, model: nn.Module, lr: float) -> None:
        """The proximal step after an optimizer step of learning rate ``lr``, in place.

        Args:
            model: a fairseq model whose parameters are fp32.
            lr: of the step that was just made.
        """
        if self.makes_steps:
            proximal_step_(model, lr, self.attn, self.mlp, self.near_zero)

    @torch.no_grad()
    def values(self, model: nn.Module) -> dict[str, float]:
        """Unweighted r_attn and r_mlp of the model, for the meters."""
        return {
            "r_attn": attention_penalty(attention_blocks(model)).item(),
            "r_mlp": mlp_penalty(mlp_blocks(model), self.near_zero).item(),
        }
