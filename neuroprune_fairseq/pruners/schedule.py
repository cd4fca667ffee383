"""When a target is approached how far.

No postponed annotations: fairseq reads the flags' types off the dataclass.
"""

from dataclasses import dataclass, field, replace
from typing import Optional

from neuroprune_fairseq.files.errors import refuse


@dataclass
class ScheduleFlags:
    """When targets are approached and reached."""

    target_update: Optional[int] = field(
        default=None,
        metadata={
            "help": "update at which the targets are reached; from then on zeros are held and the "
            "rest trains on without penalty (default: two thirds of the run)"
        },
    )
    target_interval: int = field(
        default=10, metadata={"help": "updates between two steps towards the targets"}
    )


@dataclass(frozen=True)
class Schedule:
    """The cubic schedule of gradual pruning (Zhu and Gupta, 2017).

    From ``start`` to ``end`` (updates) the share of the way is 1 - (1 - t)^3: fast while
    there is much to spare, slow towards the target.
    """

    start: int
    end: int
    interval: int = 10

    def progress(self, num_updates: int) -> float:
        """Share of the way to the target after ``num_updates`` updates, in [0, 1]."""
        if num_updates >= self.end:
            return 1.0
        t = max(0.0, (num_updates - self.start) / max(1, self.end - self.start))
        return 1.0 - (1.0 - t) ** 3

    def part(self, begin: float, end: float) -> "Schedule":
        """The same way, but begun and ended after these shares of the updates."""
        length = self.end - self.start
        first, last = (self.start + round(share * length) for share in (begin, end))
        return replace(self, start=first, end=last)

    def next_act(self, num_updates: int) -> int:
        """The first update, from this one on, after which the model is edited."""
        return min(self.end, -(-num_updates // self.interval) * self.interval)

    def acts(self, num_updates: int) -> bool:
        """Whether the model is edited after this update."""
        inside = self.start < num_updates < self.end
        return num_updates == self.end or (inside and num_updates % self.interval == 0)


def make_schedule(begin: int, until: int, end: Optional[int], interval: int) -> Schedule:
    """From a tenth of a part of a run to ``end``, by default two thirds of it.

    Args:
        begin: updates before this part of the run.
        until: updates at its end.
        end: --target-update, None for the default.
        interval: --target-interval.

    Raises:
        SystemExit: one line for an end outside.
    """
    length = until - begin
    if end is None and length < 2:
        refuse("a target needs a run of two updates; raise --max-update or --max-epoch")
    end = end or begin + 2 * length // 3
    if not begin < end <= until:
        refuse(f"--target-update {end} must be within the run's {until} updates")
    return Schedule(min(begin + length // 10, end - 1), end, max(1, interval))
