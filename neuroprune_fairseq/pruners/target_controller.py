"""Steers a training run to its targets; its state is plain values and one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from neuroprune_fairseq.compact.cutting import Plan
from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.method import sparsity
from neuroprune_fairseq.method.head_selection import HEAD_CRITERIA, keep_heads_
from neuroprune_fairseq.method.importance import HeadImportance, WeightImportance
from neuroprune_fairseq.method.pruning import prune_idle_neurons_
from neuroprune_fairseq.method.targets import HeldZeros, Schedule, sparsify_
from neuroprune_fairseq.structure import attention_blocks, full_num_heads

PARTS = ("attn", "mlp", "total")
# Where weights go as well, heads go in this first part of the way: weights are then ranked in the
# heads that stay, and have to go from these later.
HEADS_SHARE = 0.4


@dataclass(frozen=True)
class Targets:
    """What was asked for; None where nothing was.

    Raises:
        SystemExit: one line for a target that can't be met, as soon as that is known.
    """

    heads: int | None = None
    attn: float | None = None
    mlp: float | None = None
    total: float | None = None
    head_criterion: str = "both"
    merge: str = "out_proj"

    def __post_init__(self) -> None:
        check_choice("--head-criterion", self.head_criterion, HEAD_CRITERIA)
        if self.heads is not None and self.heads < 1:
            refuse(f"--target-heads {self.heads} must be at least 1")
        for part, value in self.sparsities.items():
            if not 0 <= value < 1:
                flag = _flag(part)
                refuse(f"{flag} {value} must be a share in [0, 1), such as 0.8 for 80 % zeros")
        if self.total is not None and (self.attn is not None or self.mlp is not None):
            refuse("--target-sparsity excludes --target-attn-sparsity and --target-mlp-sparsity")

    @property
    def sparsities(self) -> dict[str, float]:
        """The sparsities that were asked for, by part."""
        asked = ((part, getattr(self, part)) for part in PARTS)
        return {part: value for part, value in asked if value is not None}

    def __bool__(self) -> bool:
        return self.heads is not None or bool(self.sparsities)

    def check(self, model: nn.Module) -> None:
        """Refuse in one line what this model cannot meet."""
        blocks = attention_blocks(model)
        heads = int(sum(sparsity.head_mask(block).sum() for block in blocks))
        if self.heads is None:
            return
        if self.heads > heads:
            refuse(f"--target-heads {self.heads} must be at most {heads}, what the model has")
        if self.head_criterion == "redundancy" and self.heads < len(blocks):
            refuse(
                f"--target-heads {self.heads} is below {len(blocks)}: redundancy alone leaves one "
                "head in every attention module; use --head-criterion both or importance"
            )
        share_gone = 1 - self.heads / full_num_heads(model)
        if self.attn is not None and share_gone > self.attn + 0.005:
            refuse(
                f"--target-heads {self.heads} alone makes {share_gone:.3f} of the attention "
                f"weights zero, more than --target-attn-sparsity {self.attn}"
            )


def _flag(part: str) -> str:
    return "--target-sparsity" if part == "total" else f"--target-{part}-sparsity"


def total_updates(batches: int, update_freq: Sequence[int], max_epoch: int, max_update: int) -> int:
    """Length of a run in updates, from fairseq's settings.

    Args:
        batches: batches per epoch and worker.
        update_freq: --update-freq, one entry per epoch, the last for all that follow.
        max_epoch: --max-epoch, 0 for none.
        max_update: --max-update, 0 for none.
    """
    epochs = range(max_epoch)
    freqs = (update_freq[min(epoch, len(update_freq) - 1)] for epoch in epochs)
    by_epochs = sum(-(-batches // freq) for freq in freqs)
    lengths = [length for length in (by_epochs, max_update) if length > 0]
    return min(lengths) if lengths else 0


class TargetController:
    """Edits the model along a schedule until the targets are met, then holds the zeros."""

    def __init__(self, targets: Targets, schedule: Schedule, state: dict[str, Any]) -> None:
        """Start afresh, or go on from the ``state`` of a checkpoint ({} for none)."""
        self.targets = targets
        self.schedule = schedule
        self._head_schedule = schedule.first(HEADS_SHARE) if targets.sparsities else schedule
        self._heads = HeadImportance(values=state.get("head_importance"))
        self._weights = WeightImportance(values=state.get("weight_importance"))
        self._start: dict[str, float] = state.get("start", {})
        self._held: HeldZeros | None = None
        self._replaced: dict[str, dict[int, Any]] = state.get("replaced", {})
        self.finished: bool = state.get("finished", False)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to be the same run."""
        return {
            "head_importance": self._heads.values,
            "weight_importance": self._weights.values,
            "schedule": asdict(self.schedule),
            "start": self._start,
            "finished": self.finished,
            "replaced": self._replaced,  # since the last epoch's record
        }

    def start_(self, model: nn.Module) -> None:
        """An epoch begins: note where the run started; hold the zeros that are there."""
        if not self._start:
            found = sparsity.measure(model)
            self._start = {part: found[f"{part}_sparsity"] for part in PARTS}
            self._start["heads"] = found["heads_kept"]
        self.hold_(model)

    def hold_(self, model: nn.Module) -> None:
        """From now on hold the zeros that are there, if a sparsity is asked for."""
        if self.targets.sparsities:
            self._held = HeldZeros(model)

    def before_update_(self, model: nn.Module) -> None:
        """Measure importance while there is something to choose."""
        if self.finished:
            return
        if self.targets.heads is not None:
            self._heads.update(model)
        if self.targets.sparsities:
            self._weights.update(model)

    def after_update_(self, model: nn.Module, num_updates: int) -> bool:
        """Hold zeros and, when the schedule says so, make more (then :meth:`hold_` them).

        Args:
            model: with fp32 parameters (precision.master_weights).
            num_updates: how many updates the run has made.

        Returns:
            Whether heads or weights were zeroed.
        """
        if self._held is not None:
            self._held.zero_()
        was_finished, self.finished = self.finished, num_updates >= self.schedule.end
        # Not only at the end itself: with more workers a resumed run may be past it.
        ends = self.finished and not was_finished
        if not (ends or self.schedule.acts(num_updates)):
            return False
        self._remove_heads_(model, self._head_schedule.progress(num_updates))
        self._remove_weights_(model, self.schedule.progress(num_updates))
        return True

    def before_shrink_(self, model: nn.Module, plan: Plan) -> None:
        """Forget the importance of what is going to be cut out; :meth:`hold_` the rest then.

        Args:
            model: before the cut.
            plan: what is kept.
        """
        self._heads.cut_(model, plan)
        self._weights.cut_(model, plan)

    def _remove_heads_(self, model: nn.Module, progress: float) -> None:
        if self.targets.heads is None:
            return
        surplus = self._start["heads"] - self.targets.heads
        keep = self.targets.heads + round(surplus * (1.0 - progress))
        records = keep_heads_(
            model, keep, self.targets.head_criterion, self._heads, self.targets.merge
        )
        for record in records:
            self._replaced.setdefault(record["module"], {}).update(record["replaced"])

    def _remove_weights_(self, model: nn.Module, progress: float) -> None:
        goals = self.targets.sparsities
        if {"mlp", "total"} & goals.keys():
            prune_idle_neurons_(model)  # before the count of zeros
        scores = self._weights.scores(model) if goals else []  # parts do not share weights
        for part, goal in goals.items():
            start = self._start[part]
            sparsify_(model, part, start + (goal - start) * progress, scores)

    def epoch_records(self, model: nn.Module) -> list[dict[str, Any]]:
        """Per module what happened since the last call, for the epoch's JSON line."""
        records = []
        for block in attention_blocks(model):
            kept = sparsity.head_mask(block).nonzero().flatten().tolist()
            replaced = self._replaced.get(block.name, {})
            records.append({"module": block.name, "heads_kept": kept, "replaced": replaced})
        self._replaced = {}
        return records
