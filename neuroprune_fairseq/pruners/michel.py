"""Importance-ordered head pruning (Michel, Levy and Neubig, NeurIPS 2019)."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor, nn

from neuroprune_fairseq.pruners.base import (
    HeadTargetFlags,
    Run,
    check_positive,
    check_target_heads,
)
from neuroprune_fairseq.pruners.gated import Gated, GateRule
from neuroprune_fairseq.pruners.gates import Gates, living_heads
from neuroprune_fairseq.pruners.top_k import hard_top_k


def normalised_importance(importance: Tensor, heads_per_module: list[int]) -> Tensor:
    """Divide every module's importances by their l2 norm, as Michel et al. recommend.

    Args:
        importance: (heads_total,), >= 0.
        heads_per_module: how many of them belong to each module, in order.

    Returns:
        (heads_total,); a module without any importance stays at 0.
    """
    tiny = torch.finfo(importance.dtype).tiny
    modules = importance.split(heads_per_module)
    return torch.cat([module / module.norm().clamp_min(tiny) for module in modules])


@dataclass
class MichelFlags(HeadTargetFlags):
    """Flags of importance-ordered pruning."""

    prune_updates: int = field(
        default=500,
        metadata={
            "help": "heads are removed in equal steps up to this update, then the model "
            "trains on; a run that is shorter removes the rest at its end"
        },
    )
    prune_steps: int = field(default=10, metadata={"help": "in how many steps heads are removed"})
    importance_recompute: bool = field(
        default=False,
        metadata={
            "help": "measure importance anew before every step (default: the order measured "
            "before the first step holds for all)"
        },
    )


class MichelRule(GateRule):
    """The heads of least importance go, in steps.

    Importance is |d loss / d gate| at gates of 1, averaged over the training batches since
    it was last measured, and normalised per module.

    Note:
        Michel et al. prune a finished model and do not train it again. Here importance is
        gathered during fine-tuning and the model trains on between and after the steps, so
        that a run costs, and has to learn from, as many updates as those it is compared
        with. ``--prune-updates 1 --prune-steps 1`` prunes at once.
    """

    def __init__(self, flags: MichelFlags) -> None:
        self._keep, self._updates = flags.target_heads or 0, flags.prune_updates
        self._steps, self._recompute = flags.prune_steps, flags.importance_recompute

    def start(self, gates: Gates, run: Run, state: dict[str, Any]) -> None:
        living = living_heads(run.model)
        self._heads_per_module = gates.heads_per_module
        self._heads_at_start = state.get("heads_at_start", int(living.sum()))
        self._steps_done = state.get("steps_done", 0)
        self._order: Any = state.get("order")  # (heads_total,), normalised importance
        self._gathered = state.get("gathered", torch.zeros(len(living) + 1).double())
        self._batch = torch.zeros_like(self._gathered)
        gates.use(torch.ones(len(living)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "heads_at_start": self._heads_at_start,
            "steps_done": self._steps_done,
            "order": self._order,
            "gathered": self._gathered,
        }

    def before_batch(self, gates: Gates, run: Run) -> None:
        if run.begins_update:
            self._batch.zero_()

    def after_batch(self, gradient: Tensor, sample_size: float) -> None:
        entry = torch.cat([gradient.abs(), gradient.new_tensor([sample_size])])
        if entry.isfinite().all():
            self._batch += entry

    def after_step(self, run: Run) -> Optional[Tensor]:
        self._gathered = self._gathered + run.sum_over_workers(self._batch)
        due = self._steps * run.num_updates // self._updates
        if not self._steps_done < due < self._steps:
            return None
        removed = (self._heads_at_start - self._keep) * due // self._steps
        values = self._best(run.model, self._heads_at_start - removed)
        self._steps_done = due
        if self._recompute:
            self._gathered = torch.zeros_like(self._gathered)
        return values

    def have_learnt(self, run: Run) -> bool:
        return run.num_updates >= self._updates

    def final_gates(self, model: nn.Module) -> Tensor:
        return self._best(model, self._keep)

    def _best(self, model: nn.Module, keep: int) -> Tensor:
        """1 for the ``keep`` most important living heads, else 0: (heads_total,)."""
        measured = self._gathered[-1].item() > 0
        if measured and (self._order is None or self._steps_done == 0 or self._recompute):
            importance = self._gathered[:-1] / self._gathered[-1]
            self._order = normalised_importance(importance, self._heads_per_module)
        return hard_top_k(self._order.masked_fill(~living_heads(model), -1.0), keep)


class Michel(Gated):
    """Importance-ordered pruning as a pruner."""

    def __init__(self, flags: MichelFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        check_target_heads(flags.target_heads)
        check_positive(prune_updates=flags.prune_updates, prune_steps=flags.prune_steps)
        super().__init__(MichelRule(flags), flags.target_heads)
