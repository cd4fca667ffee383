"""Importance-ordered head pruning (Michel, Levy and Neubig, NeurIPS 2019)."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.tasks import register_task
from torch import Tensor

from neuroprune_fairseq.plugin.workers import sum_over_workers
from neuroprune_fairseq.pruners.gated_task import (
    GatedTask,
    GatedTaskConfig,
    check_heads_to_keep,
    check_positive,
)
from neuroprune_fairseq.pruners.gates import living_heads
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
class TranslationMichelConfig(GatedTaskConfig):
    """Flags of importance-ordered pruning."""

    heads_to_keep: Optional[int] = field(  # noqa: UP045  (fairseq knows no X | None)
        default=None,
        metadata={"help": "how many heads of the whole model stay; exactly so many will"},
    )
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


@register_task("translation_michel", dataclass=TranslationMichelConfig)
class TranslationMichelTask(GatedTask):
    """The heads of least importance go, in steps.

    Importance is |d loss / d gate| at gates of 1, averaged over the training batches since
    it was last measured, and normalised per module.

    Note:
        Michel et al. prune a finished model and do not train it again. Here importance is
        gathered during fine-tuning and the model trains on between and after the steps, so
        that a run costs, and has to learn from, as many updates as those it is compared
        with. ``--prune-updates 1 --prune-steps 1`` prunes at once.
    """

    def __init__(self, cfg: TranslationMichelConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        check_heads_to_keep(cfg.heads_to_keep)
        check_positive(prune_updates=cfg.prune_updates, prune_steps=cfg.prune_steps)
        self.heads_to_keep = cfg.heads_to_keep

    def start_gates_(self, living, state):
        state = state or {}
        self._heads_at_start = state.get("heads_at_start", int(living.sum()))
        self._steps_done = state.get("steps_done", 0)
        self._order = state.get("order")  # (heads_total,), normalised importance
        self._gathered = state.get("gathered", torch.zeros(len(living) + 1).double())
        self._batch = torch.zeros_like(self._gathered)
        self.gates.use(torch.ones(len(living)))

    def gate_state(self):
        return {
            "heads_at_start": self._heads_at_start,
            "steps_done": self._steps_done,
            "order": self._order,
            "gathered": self._gathered,
        }

    def before_batch_(self, new_update):
        if new_update:
            self._batch.zero_()

    def after_batch_(self, gradient, sample_size):
        entry = torch.cat([gradient.abs(), gradient.new_tensor([sample_size])])
        if entry.isfinite().all():
            self._batch += entry

    def update_gates_(self):
        self._gathered = self._gathered + sum_over_workers(self._batch, self.gates.device)
        due = self.cfg.prune_steps * self.num_updates // self.cfg.prune_updates
        if self._steps_done < due < self.cfg.prune_steps:
            removed = (self._heads_at_start - self.heads_to_keep) * due // self.cfg.prune_steps
            self.fold_into_weights_(self._best(self._heads_at_start - removed))
            self._steps_done = due
            if self.cfg.importance_recompute:
                self._gathered = torch.zeros_like(self._gathered)

    def gates_have_learnt(self):
        return self.num_updates >= self.cfg.prune_updates

    def final_gates(self):
        return self._best(self.heads_to_keep)

    def _best(self, keep: int) -> Tensor:
        """1 for the ``keep`` most important living heads, else 0: (heads_total,)."""
        recompute = self.cfg.importance_recompute
        measured = self._gathered[-1].item() > 0
        if measured and (self._order is None or self._steps_done == 0 or recompute):
            importance = self._gathered[:-1] / self._gathered[-1]
            self._order = normalised_importance(importance, self.gates.heads_per_module)
        return hard_top_k(self._order.masked_fill(~living_heads(self.model), -1.0), keep)
