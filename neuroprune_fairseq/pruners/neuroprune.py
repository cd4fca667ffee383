"""NeuroPrune (Algorithm 1): redundant heads go after every epoch; and targets beyond the paper.

The penalties are the criterion's (:mod:`.penalties`).
"""

from dataclasses import dataclass, field
from typing import Any, Optional

from torch import Tensor, nn

from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.method.pruning import (
    MERGES,
    eliminate_redundant_heads,
    prune_idle_neurons_,
)
from neuroprune_fairseq.pruners.base import Pruner, Run
from neuroprune_fairseq.pruners.budget import Budget
from neuroprune_fairseq.pruners.goals import BudgetFlags
from neuroprune_fairseq.pruners.targets import TargetFlags, Targets


@dataclass
class NeuroPruneFlags(TargetFlags, BudgetFlags):
    """Flags of NeuroPrune."""

    head_distance_threshold: Optional[float] = field(
        default=None,
        metadata={
            "help": "theta: after every epoch, heads whose Q, K, V weights differ by at most "
            "this (largest absolute difference) are similar, and dominated ones are merged "
            "and removed (default: no head is removed)"
        },
    )
    head_merge: str = field(
        default="out_proj",
        metadata={
            "help": "what a removed head leaves to the head that replaces it: out_proj adds its "
            "out_proj columns, fc1 its columns of fc1 (the paper's wording), none nothing"
        },
    )


class NeuroPrune(Pruner):
    """Algorithm 2 at the end of every epoch, and the targets if there are any."""

    def __init__(self, flags: NeuroPruneFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        self._threshold, self._merge = flags.head_distance_threshold, flags.head_merge
        if self._threshold is not None and not self._threshold >= 0:
            refuse(
                f"--head-distance-threshold {self._threshold} is not a distance; it must be >= 0"
            )
        check_choice("--head-merge", self._merge, MERGES)
        if self._threshold is not None and flags.target_heads is not None:
            refuse("--target-heads finds the threshold itself; drop --head-distance-threshold")
        self._targets: Targets | Budget = Targets(flags, self._merge)
        if budget := Budget(flags):
            self._check_budget(budget.goals[0].flag)
            self._targets = budget
            self.always_compact = True
        self.needs_whole_run = bool(self._targets)
        self.holds_weights = self._targets.holds_weights

    def _check_budget(self, flag: str) -> None:
        """Refuse what a budget decides itself."""
        if self._targets:
            refuse(f"{flag} decides what goes; drop the other targets")
        if self._threshold is not None:
            refuse(f"{flag} decides which heads go; drop --head-distance-threshold")

    @property
    def ends_penalties(self) -> bool:  # type: ignore[override]  # noqa: D102
        return self._targets.ends_penalties

    def start(self, run: Run) -> None:  # noqa: D102
        if self._targets:
            self._targets.start(run)

    def after_batch(self, run: Run, sample_size: Any) -> None:  # noqa: D102
        if self._targets:
            self._targets.after_batch(run, sample_size)

    def before_step(self, run: Run) -> None:  # noqa: D102
        if self._targets:
            self._targets.before_step(run)

    def after_step(self, run: Run) -> bool:  # noqa: D102
        return bool(self._targets) and self._targets.after_step(run)

    def end_epoch(self, run: Run) -> dict[str, Any]:  # noqa: D102
        if not self.holds_weights:
            prune_idle_neurons_(run.model)
        entries = self._targets.end_epoch(run) if self._targets else {}
        if self._threshold is not None:
            records = eliminate_redundant_heads(run.model, self._threshold, self._merge)
            entries["modules"] = records
        return entries

    def before_cut(self, model: nn.Module, plan: dict[str, Tensor]) -> None:  # noqa: D102
        self._targets.before_cut(model, plan)

    def kept_as(self, run: Run) -> Optional[str]:  # noqa: D102
        return self._targets.kept_as(run)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return self._targets.state_dict() if self._targets else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        if self._targets and state:
            self._targets.load_state_dict(state)
