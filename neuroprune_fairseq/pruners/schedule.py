"""When a target is approached how far."""

from __future__ import annotations

from dataclasses import dataclass, replace


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

    def first(self, share: float) -> Schedule:
        """The same way, but at its end after this share of the updates."""
        return replace(self, end=self.start + round(share * (self.end - self.start)))

    def acts(self, num_updates: int) -> bool:
        """Whether the model is edited after this update."""
        inside = self.start < num_updates < self.end
        return num_updates == self.end or (inside and num_updates % self.interval == 0)
