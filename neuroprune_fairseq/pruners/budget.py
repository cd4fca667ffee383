"""Named costs: a model as fast, or as small, as was asked for; heads, neurons and layers compete.

What goes is decided by importance per cost (:mod:`neuroprune_fairseq.compact.shape_search`), again
at every step of the schedule for the whole of what is asked, and then done as far as the schedule
has come. First heads and layers go, then the number of neurons takes up what is left.

Several costs in a row make a family from one run: each is reached, recovers and is kept as a
checkpoint of its own before the next one begins.
"""

import logging
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
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
from neuroprune_fairseq.pruners.parts import PARTS, Left, Parts
from neuroprune_fairseq.pruners.schedule import Schedule, ScheduleFlags, make_schedule

logger = logging.getLogger(__name__)

STRUCTURE_SHARE = 0.4  # heads and layers go in this first part of the way


@dataclass
class BudgetFlags(ScheduleFlags):
    """What the model may cost in the end."""

    target_speedup: Optional[str] = field(
        default=None,
        metadata={
            "help": "X: end with a model that is X times as fast as the one that training began "
            "with, by --cost-table, without it by floating-point operations; 1.5,2,3 makes a "
            "family: each is reached in turn and kept as checkpoint_speedup_X.pt"
        },
    )
    target_flops: Optional[str] = field(
        default=None,
        metadata={
            "help": "R: end with this share of the floating-point operations; 0.7,0.5 as above"
        },
    )
    target_parameters: Optional[str] = field(
        default=None,
        metadata={"help": "R: end with this share of all parameters; 0.7,0.5 as above"},
    )
    cost_table: Optional[str] = field(
        default=None,
        metadata={"help": "FILE that neuroprune-profile wrote: what --target-speedup counts by"},
    )
    target_parts: str = field(
        default=",".join(PARTS),
        metadata={"help": f"what may go for these three: some of {', '.join(PARTS)}"},
    )


@dataclass(frozen=True)
class Goal:
    """One cost that was asked for."""

    flag: str
    text: str
    share: float  # of the cost that the run began with

    @property
    def is_speedup(self) -> bool:
        """Whether it was given as a factor."""
        return self.flag == "--target-speedup"

    @property
    def name(self) -> str:
        """Of its checkpoint: "speedup_2"."""
        return f"{self.flag.removeprefix('--target-')}_{self.text}"


def _goals(flag: str, text: str) -> list[Goal]:
    """What a flag asks for, in order."""
    speedup = flag == "--target-speedup"
    example = "2 or 1.5,2,3" if speedup else "0.5 or 0.7,0.5"
    what = "factors above 1" if speedup else "shares between 0 and 1"
    try:
        values = [float(word) for word in text.split(",")]
        shares = [1 / value if speedup else value for value in values]
    except (ValueError, ZeroDivisionError):
        refuse(f"{flag} {text} must be numbers, such as {example}")
    if not all(0 < share < 1 for share in shares):
        refuse(f"{flag} {text} must be {what}, such as {example}")
    if any(later >= earlier for earlier, later in zip(shares, shares[1:])):
        refuse(f"{flag} {text} must be in order, the largest model first, such as {example}")
    return [Goal(flag, word.strip(), share) for word, share in zip(text.split(","), shares)]


def asked_goals(flags: BudgetFlags) -> list[Goal]:
    """The costs that were asked for, in order; empty where none was.

    Raises:
        SystemExit: one line for one that cannot be.
    """
    asked = {
        "--target-speedup": flags.target_speedup,
        "--target-flops": flags.target_flops,
        "--target-parameters": flags.target_parameters,
    }
    given = {flag: text for flag, text in asked.items() if text is not None}
    if len(given) > 1:
        refuse(f"{', '.join(given)}: one budget at a time; drop all but one")
    goals = [goal for flag, text in given.items() for goal in _goals(flag, text)]
    if len(goals) > 1 and flags.target_update is not None:
        refuse(f"--target-update is for one model, {goals[0].flag} names more; drop it")
    if flags.cost_table is not None and flags.target_speedup is None:
        refuse("--cost-table says what --target-speedup counts by; name that, too")
    unknown = set(flags.target_parts.split(",")) - set(PARTS)
    if unknown or not flags.target_parts:
        refuse(f"--target-parts {flags.target_parts} must be some of {','.join(PARTS)}")
    return goals


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
        self._table: Any = None  # a CostTable from the first epoch on
        self._whole = 0.0  # cost that the run began with
        self._epochs: list[int] = []  # after which a goal is kept and the next one begins
        self._segments: list[int] = []  # the same in updates
        self._schedules: list[Schedule] = []
        self._pace: list[int] = []  # what the schedules were made for
        self._from = [0, 0]  # heads and neurons that the current goal began with
        self._begun = self._settled = self._reached = 0  # goals; settled: heads and layers are

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
            "table": asdict(self._table) if self._table else None,
            "whole": self._whole,
            "epochs": self._epochs,
            "segments": self._segments,
            "schedules": [asdict(schedule) for schedule in self._schedules],
            "pace": self._pace,
            "from": self._from,
            "goals": [self._begun, self._settled, self._reached],
            "asked": self._asked,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        if state.get("asked") != self._asked:
            was = state.get("asked", "other targets")
            refuse(f"{self._asked}: the run was begun with {was}; {AS_BEGUN}")
        self._importance.values = dict(state["importance"])
        self._table = CostTable(**state["table"]) if state["table"] else None
        self._whole = float(state["whole"])
        self._epochs, self._segments = list(state["epochs"]), list(state["segments"])
        self._schedules = [Schedule(**schedule) for schedule in state["schedules"]]
        self._pace, self._from = list(state["pace"]), list(state["from"])
        self._begun, self._settled, self._reached = state["goals"]

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

    def before_step(self, run: Run) -> None:  # noqa: D102
        if self._reached < len(self.goals):
            self._importance.update(run.model)

    def after_step(self, run: Run) -> bool:  # noqa: D102
        number = min(bisect_left(self._segments, run.num_updates), len(self.goals) - 1)
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
            options = parts.options(self._importance, may_go)
            share = smallest_cost(self._table, options) / self._whole
            if goal.share < share:
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

    def _may_go(self, number: int, run: Run) -> list[str]:
        """The parts that may go; layers only where the model trains on without them."""
        schedule = self._schedules[number]
        gone = schedule.next_act(schedule.first(STRUCTURE_SHARE).end)
        last_begins = [0, *run.epoch_ends][self._epochs[number] - 1]
        parts = self._flags.target_parts.split(",")
        return [part for part in parts if part != "layers" or gone <= last_begins]

    def _shrink_(self, run: Run, number: int) -> None:
        """One step towards a goal."""
        parts, schedule = Parts(run.model), self._schedules[number]
        structure = schedule.first(STRUCTURE_SHARE).progress(run.num_updates)
        if self._begun <= number:
            self._begun = number + 1
            self._from = [parts.num_heads, parts.num_neurons]
        options = parts.options(self._importance, self._may_go(number, run))
        budget = self.goals[number].share * self._whole
        goal = search_shape(self._table, options, budget, neurons_only=self._settled > number)
        heads = sum(sum(shape.heads.values()) for shape in goal)
        neurons = sum(shape.neurons for shape in goal)
        left = Left(
            heads + round((self._from[0] - heads) * (1 - structure)),
            neurons + round((self._from[1] - neurons) * (1 - schedule.progress(run.num_updates))),
            structure == 1,
        )
        parts.shrink_(goal, self._importance, left)
        if structure == 1:
            self._settled = number + 1
