"""Named targets: exactly K heads, a sparsity within half a percent; on a schedule, then held.

The paper's limitations name it: heads cannot be asked for, and three hyper-parameters must be
guessed. Here they are found: for heads the smallest distance threshold (or the least important
heads), and of the weights those go that matter least to the loss.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.optimizer import cut_like_parameters
from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.method import sparsity
from neuroprune_fairseq.method.head_selection import HEAD_CRITERIA, even_layouts, keep_heads_
from neuroprune_fairseq.method.importance import HeadImportance, WeightImportance
from neuroprune_fairseq.method.pruning import prune_idle_neurons_
from neuroprune_fairseq.method.weight_selection import sparsify_
from neuroprune_fairseq.pruners.base import (
    AS_BEGUN,
    HeadTargetFlags,
    Pruner,
    Run,
    SparsityTargetFlags,
    check_target_heads,
    head_records,
)
from neuroprune_fairseq.pruners.schedule import Schedule, ScheduleFlags, make_schedule
from neuroprune_fairseq.structure import attention_blocks, full_num_heads

SPARSITY_FLAGS = {
    "attn": "--target-attn-sparsity",
    "mlp": "--target-mlp-sparsity",
    "total": "--target-sparsity",
}
HEAD_LAYOUTS = ("anywhere", "even")
# Where weights go as well, heads go in this first part of the way: weights are then ranked in the
# heads that stay, and have to go from these later.
HEADS_SHARE = 0.4


@dataclass
class TargetFlags(HeadTargetFlags, SparsityTargetFlags, ScheduleFlags):
    """What to end with, and when."""

    target_attn_sparsity: Optional[float] = field(
        default=None, metadata={"help": "share of zeros among the q, k, v weights to end with"}
    )
    target_mlp_sparsity: Optional[float] = field(
        default=None, metadata={"help": "share of zeros among the fc1, fc2 weights to end with"}
    )
    head_criterion: str = field(
        default="both",
        metadata={
            "help": "which heads go to reach --target-heads: redundancy (the closest first, as in "
            "the paper), importance (the least important to the loss first), both (importance "
            "scaled by the distance to the nearest other head)"
        },
    )
    head_layout: str = field(
        default="anywhere",
        metadata={
            "help": "where the heads of --target-heads stay: anywhere, or even (as many in every "
            "attention module of a stack, as engines want them)"
        },
    )


def asked_sparsities(flags: TargetFlags) -> dict[str, float]:
    """The sparsities that were asked for, by part: "attn", "mlp", "total".

    Raises:
        SystemExit: one line for one that cannot be.
    """
    asked = {
        "attn": flags.target_attn_sparsity,
        "mlp": flags.target_mlp_sparsity,
        "total": flags.target_sparsity,
    }
    found = {part: value for part, value in asked.items() if value is not None}
    for part, value in found.items():
        if not 0 <= value < 1:
            refuse(
                f"{SPARSITY_FLAGS[part]} {value} must be a share in [0, 1), such as 0.8 for 80 % "
                "zeros"
            )
    if "total" in found and len(found) > 1:
        refuse("--target-sparsity excludes --target-attn-sparsity and --target-mlp-sparsity")
    return found


def keep_importance_(
    importance: HeadImportance | WeightImportance, model: nn.Module, plan: dict[str, Tensor]
) -> None:
    """Forget, in place, the importance of what is going to be cut out of a model.

    Args:
        importance: of its heads or weights.
        model: before the cut.
        plan: what is kept.
    """
    if isinstance(importance, HeadImportance):
        importance.keep(model, plan)
    elif values := importance.by_name(model):
        kept = cut_like_parameters(values, model, plan)
        importance.values = torch.cat([kept[name].flatten() for name in values if name in kept])


class Targets(Pruner):
    """Edits the model along a schedule until the targets are met; then their zeros are held."""

    def __init__(self, flags: TargetFlags, merge: str = "out_proj") -> None:
        """Start afresh.

        Args:
            flags: what to end with.
            merge: as in pruning.eliminate_redundant_heads.

        Raises:
            SystemExit: one line for a target that cannot be met, as soon as that is known.
        """
        check_choice("--head-criterion", flags.head_criterion, HEAD_CRITERIA)
        check_choice("--head-layout", flags.head_layout, HEAD_LAYOUTS)
        self._even = flags.head_layout == "even"
        if self._even and (flags.target_heads is None or flags.head_criterion == "redundancy"):
            refuse("--head-layout even needs --target-heads, without redundancy alone")
        self.heads = flags.target_heads
        if self.heads is not None:
            check_target_heads(self.heads)
        self.sparsities = asked_sparsities(flags)
        self.holds_weights = bool(self.sparsities)
        self._criterion, self._merge = flags.head_criterion, merge
        self._end, self._interval = flags.target_update, flags.target_interval
        self._head_importance, self._weight_importance = HeadImportance(), WeightImportance()
        self._schedule: Any = None  # a Schedule from the first epoch on
        self._pace: list[int] = []  # what the schedule was made for
        self._start: dict[str, Any] = {}  # heads and sparsities that the run began with
        self._finished = False
        self._replaced: dict[str, dict[int, Any]] = {}  # since the last epoch's record

    def __bool__(self) -> bool:
        return self.heads is not None or bool(self.sparsities)

    @property
    def ends_penalties(self) -> bool:  # type: ignore[override]  # noqa: D102
        return self._finished

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            "head_importance": self._head_importance.values,
            "weight_importance": self._weight_importance.values,
            "schedule": asdict(self._schedule) if self._schedule else None,
            "pace": self._pace,
            "start": self._start,
            "finished": self._finished,
            "replaced": self._replaced,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        if "asked" in state:
            refuse(f"other targets: the run was begun with {state['asked']}; {AS_BEGUN}")
        self._head_importance.values = state["head_importance"]
        self._weight_importance.values = state["weight_importance"]
        whole = {name: int(update) for name, update in (state["schedule"] or {}).items()}
        self._schedule = Schedule(**whole) if whole else None
        self._pace = list(state["pace"])
        self._start = {part: float(value) for part, value in state["start"].items()}
        self._finished, self._replaced = bool(state["finished"]), dict(state["replaced"])

    def start(self, run: Run) -> None:  # noqa: D102
        if not self._start:
            self._check(run.model)
            found = sparsity.measure(run.model)
            self._start = {part: found[f"{part}_sparsity"] for part in SPARSITY_FLAGS}
            self._start["heads"] = found["heads_kept"]
        for importance in (self._head_importance, self._weight_importance):
            importance.check(run.model)
        pace = [*run.pace, self._end or 0]
        if self._schedule is None or pace != self._pace:  # a resumed run keeps its schedule
            self._schedule = make_schedule(0, run.length, self._end, self._interval)
            self._pace = pace

    def before_step(self, run: Run) -> None:  # noqa: D102
        if self._finished:
            return  # nothing is left to choose
        if self.heads is not None:
            self._head_importance.update(run.model)
        if self.sparsities:
            self._weight_importance.update(run.model)

    def after_step(self, run: Run) -> bool:  # noqa: D102
        was_finished, self._finished = self._finished, run.num_updates >= self._schedule.end
        # Not only at the end itself: with more workers a resumed run may be past it.
        ends = self._finished and not was_finished
        if not (ends or self._schedule.acts(run.num_updates)):
            return False
        self._remove_heads_(run)
        self._remove_weights_(run)
        return True

    def end_epoch(self, run: Run) -> dict[str, Any]:
        """Per module what happened since the last epoch's end."""
        records = head_records(run.model, self._replaced)
        self._replaced = {}
        return {"modules": records}

    def before_cut(self, model: nn.Module, plan: dict[str, Tensor]) -> None:  # noqa: D102
        keep_importance_(self._head_importance, model, plan)
        keep_importance_(self._weight_importance, model, plan)

    def _check(self, model: nn.Module) -> None:
        """Refuse in one line what this model cannot meet."""
        if self.heads is None:
            return
        blocks = attention_blocks(model)
        check_target_heads(self.heads, int(sum(sparsity.head_mask(b).sum() for b in blocks)))
        if self._criterion == "redundancy" and self.heads < len(blocks):
            refuse(
                f"--target-heads {self.heads} is below {len(blocks)}: redundancy alone leaves one "
                "head in every attention module; use --head-criterion both or importance"
            )
        heads = self.heads
        if self._even and not even_layouts(model, heads):
            numbers = [n for n in range(full_num_heads(model) + 1) if even_layouts(model, n)]
            nearest = min(numbers, key=lambda n: abs(n - heads), default=0)
            refuse(f"--target-heads {self.heads} cannot be even; the nearest number is {nearest}")
        share_gone = 1 - self.heads / full_num_heads(model)
        goal = self.sparsities.get("attn")
        if goal is not None and share_gone > goal + 0.005:
            refuse(
                f"--target-heads {self.heads} alone makes {share_gone:.3f} of the attention "
                f"weights zero, more than --target-attn-sparsity {goal}"
            )

    def _remove_heads_(self, run: Run) -> None:
        if self.heads is None:
            return
        schedule = self._schedule.part(0, HEADS_SHARE) if self.sparsities else self._schedule
        surplus = self._start["heads"] - self.heads
        keep = self.heads + round(surplus * (1.0 - schedule.progress(run.num_updates)))
        records = keep_heads_(
            run.model,
            keep,
            self._criterion,
            self._head_importance,
            self._merge,
            evenly_at=self.heads if self._even else None,
        )
        for record in records:
            self._replaced.setdefault(record["module"], {}).update(record["replaced"])

    def _remove_weights_(self, run: Run) -> None:
        if {"mlp", "total"} & self.sparsities.keys():
            prune_idle_neurons_(run.model)  # before the count of zeros
        progress = self._schedule.progress(run.num_updates)
        scores = self._weight_importance.scores(run.model) if self.sparsities else []
        for part, goal in self.sparsities.items():  # parts do not share weights
            start = self._start[part]
            sparsify_(run.model, part, start + (goal - start) * progress, scores)
