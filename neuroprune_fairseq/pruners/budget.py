"""Named costs: a model as fast, or as small, as was asked for; heads, neurons and layers compete.

What goes is decided by importance per cost (:mod:`neuroprune_fairseq.compact.shape_search`), again
at every step of the schedule for the whole of what is asked, and then done as far as the schedule
has come, the coarsest first: layers one after the other, then heads, then neurons, which take up
what is left.

Several costs in a row make a family from one run: each is reached, recovers and is kept as a
checkpoint of its own before the next one begins.
"""

import logging
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, Optional

from torch import Tensor, nn

from neuroprune_fairseq.compact.cost_file import check_fits, read_cost_table
from neuroprune_fairseq.compact.cost_table import (
    CostTable,
    flops_table,
    layer_shapes,
    parameter_table,
)
from neuroprune_fairseq.compact.shape_search import search_shape, smallest_cost
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.method.part_importance import PartImportance
from neuroprune_fairseq.pruners.base import AS_BEGUN, Pruner, Run, head_records
from neuroprune_fairseq.pruners.goals import BudgetFlags, Goal, asked_goals
from neuroprune_fairseq.pruners.layer_losses import LayerLosses
from neuroprune_fairseq.pruners.parts import Parts, number_in
from neuroprune_fairseq.pruners.schedule import Schedule, make_schedule

logger = logging.getLogger(__name__)

STAGES = {"layers": 2, "heads": 3, "neurons": 5}  # what goes when, in shares of the way


class Budget(Pruner):
    """Edits the model along a schedule until it costs what was asked for; then it trains on."""

    needs_whole_run = True
    always_compact = True

    def __init__(self, flags: BudgetFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        self.goals = asked_goals(flags)
        self._flags = flags
        self._importance = PartImportance()
        self._layer_losses = LayerLosses()
        self._table: Any = None  # a CostTable from the first epoch on
        self._whole = 0.0  # cost that the run began with
        self._epochs: list[int] = []  # after which a goal is kept and the next one begins
        self._segments: list[int] = []  # the same in updates
        self._schedules: list[Schedule] = []
        self._pace: list[int] = []  # what the schedules were made for
        self._from: dict[str, int] = {}  # by part, how many its stage began with
        self._settled: dict[str, int] = {}  # by part, the goals that its stages are over for
        self._reached = 0  # goals

    def __bool__(self) -> bool:
        return bool(self.goals)

    @property
    def _asked(self) -> str:
        """What is, by flags."""
        values = ",".join(goal.text for goal in self.goals)
        return f"{self.goals[0].flag} {values} --target-parts {self._flags.target_parts}"

    @property
    def ends_penalties(self) -> bool:  # type: ignore[override]  # noqa: D102
        return self._reached == len(self.goals)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            "importance": self._importance.values,
            "layer_losses": self._layer_losses.values,
            "table": asdict(self._table) if self._table else None,
            "whole": self._whole,
            "epochs": self._epochs,
            "segments": self._segments,
            "schedules": [asdict(schedule) for schedule in self._schedules],
            "pace": self._pace,
            "from": self._from,
            "settled": self._settled,
            "reached": self._reached,
            "asked": self._asked,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        if state.get("asked") != self._asked:
            was = state.get("asked", "other targets")
            refuse(f"{self._asked}: the run was begun with {was}; {AS_BEGUN}")
        self._importance.values = dict(state["importance"])
        self._layer_losses.values = dict(state["layer_losses"])
        self._table = CostTable(**state["table"]) if state["table"] else None
        self._whole = float(state["whole"])
        self._epochs, self._segments = list(state["epochs"]), list(state["segments"])
        self._schedules = [Schedule(**schedule) for schedule in state["schedules"]]
        self._pace, self._from = list(state["pace"]), dict(state["from"])
        self._settled, self._reached = dict(state["settled"]), state["reached"]

    def start(self, run: Run) -> None:  # noqa: D102
        self._importance.check(run.model)
        if self._table is None:
            self._table = self._make_table(run.model)
            self._whole = self._table.cost(layer_shapes(run.model))
        elif self._flags.cost_table and read_cost_table(self._flags.cost_table) != self._table:
            refuse(f"--cost-table: the run was begun with another table; {AS_BEGUN}")
        pace = [*run.pace, run.epoch_ends[0], run.length, self._flags.target_update or 0]
        if pace != self._pace:  # a resumed run keeps its schedule
            self._pace = pace
            self._make_schedules(run)
            self._check(run)

    def after_batch(self, run: Run, sample_size: Any) -> None:  # noqa: D102
        number = self._number(run.num_updates + 1)
        if self._loses_layers(number, run) and self._schedules[number].acts(run.num_updates + 1):
            self._layer_losses.measure(run, Parts(run.model).removable, sample_size)

    def before_step(self, run: Run) -> None:  # noqa: D102
        self._layer_losses.end_update(run)
        if self._reached < len(self.goals):
            self._importance.update(run.model)

    def after_step(self, run: Run) -> bool:  # noqa: D102
        number = self._number(run.num_updates)
        schedule = self._schedules[number]
        # Not only at the end itself: with more workers a resumed run may be past it.
        ends = run.num_updates >= schedule.end
        if self._reached > number or not (ends or schedule.acts(run.num_updates)):
            return False
        self._shrink_(run, number)
        if ends:
            self._reached = number + 1
        return True

    def end_epoch(self, run: Run) -> dict[str, Any]:
        """What the model costs now, and the heads that are left per module."""
        cost = self._table.cost(Parts(run.model).shapes)
        logger.info(f"cost {cost:.5g} of {self._whole:.5g} {self._table.unit}")
        return {"modules": head_records(run.model), "cost_share": cost / self._whole}

    def before_cut(self, model: nn.Module, plan: dict[str, Tensor]) -> None:  # noqa: D102
        self._importance.keep(plan)
        self._layer_losses.keep(Parts(model).removable)

    def kept_as(self, run: Run) -> Optional[str]:  # noqa: D102
        if len(self.goals) > 1 and run.epoch in self._epochs:
            number = self._epochs.index(run.epoch)
            return self.goals[number].name if self._reached > number else None
        return None

    def _make_table(self, model: nn.Module) -> CostTable:
        if self._flags.cost_table is not None:
            table = read_cost_table(self._flags.cost_table)
            check_fits(table, model)
            return table
        by_parameters = self._flags.target_parameters is not None
        return parameter_table(model) if by_parameters else flops_table(model)

    def _check(self, run: Run) -> None:
        """Refuse a cost that no smaller shape of this model has."""
        parts, asked = Parts(run.model), set(self._flags.target_parts.split(","))
        for number, goal in list(enumerate(self.goals))[self._reached :]:
            may_go = self._may_go(number, run)
            free = dict.fromkeys(parts.removable if "layers" in may_go else (), 0.0)
            options = parts.options(self._importance, may_go, free)
            share = smallest_cost(self._table, options) / self._whole
            if self._budget(goal) < share * self._whole:
                most, least = f"{1 / share:.2f} is the most", f"{share:.3f} is the least"
                limit = f"{most if goal.is_speedup else least} for this model"
                stay = "" if asked == {*may_go} else "; layers go only in a run of more epochs"
                refuse(f"{goal.flag} {goal.text} cannot be reached: {limit}{stay}")

    def _make_schedules(self, run: Run) -> None:
        """A part of the run for each goal; all but the last part end with an epoch."""
        number, epochs = len(self.goals), len(run.epoch_ends)
        if epochs < number:
            refuse(f"{self.goals[0].flag}: {number} models need as many epochs; raise --max-epoch")
        self._epochs = [-(-epochs * (index + 1) // number) for index in range(number)]
        ends = [run.epoch_ends[epoch - 1] for epoch in self._epochs]
        self._segments = ends
        self._schedules = [
            make_schedule(begin, until, self._flags.target_update, self._flags.target_interval)
            for begin, until in zip([0, *ends], ends)
        ]

    def _budget(self, goal: Goal) -> float:
        """What the model may cost: a hair less, so that rounding never ends above the goal."""
        return goal.share * self._whole * (1 - 1e-12)

    def _number(self, num_updates: int) -> int:
        """Of the goal that this update belongs to."""
        return min(bisect_left(self._segments, num_updates), len(self.goals) - 1)

    def _stages(self, number: int, parts: Collection[str]) -> dict[str, Schedule]:
        """When each of these parts goes, one after the other."""
        shares = {part: share for part, share in STAGES.items() if part in parts}
        begin, total, found = 0, sum(shares.values()), {}
        for part, share in shares.items():
            end = begin + share
            found[part] = self._schedules[number].part(begin / total, end / total)
            begin = end
        return found

    def _may_go(self, number: int, run: Run) -> list[str]:
        """The parts that may go; layers only where the model trains on without them."""
        parts = self._flags.target_parts.split(",")
        if "layers" in parts:
            schedule = self._schedules[number]
            gone = schedule.next_act(self._stages(number, parts)["layers"].end)
            if gone > [0, *run.epoch_ends][self._epochs[number] - 1]:
                parts.remove("layers")
        return parts

    def _loses_layers(self, number: int, run: Run) -> bool:
        return "layers" in self._may_go(number, run) and not self._is_settled("layers", number)

    def _is_settled(self, part: str, number: int) -> bool:
        return self._settled.get(part, 0) > number

    def _shrink_(self, run: Run, number: int) -> None:
        """One step towards a goal."""
        parts, may_go = Parts(run.model), self._may_go(number, run)
        lost = self._layer_losses.in_units_of(parts.importance_by_layer(self._importance))
        if not self._loses_layers(number, run):
            lost = {}
        options = parts.options(self._importance, may_go, lost)
        budget, heads_stay = self._budget(self.goals[number]), self._is_settled("heads", number)
        goal = search_shape(self._table, options, budget, neurons_only=heads_stay)
        for part, stage in self._stages(number, may_go).items():
            if run.num_updates <= stage.start or self._is_settled(part, number):
                continue
            parts = Parts(run.model)  # as the stage before leaves them
            begun = self._from.setdefault(f"{part} {number}", number_in(parts.shapes, part))
            wanted, progress = number_in(goal, part), stage.progress(run.num_updates)
            left = wanted + round((begun - wanted) * (1 - progress))
            parts.shrink_(part, goal, left, self._importance, lost)
            if progress == 1:
                self._settled[part] = number + 1
