"""How many hidden neurons an MLP should keep, for what they cost and what is lost without them."""

from __future__ import annotations

import numpy as np


class NeuronNumbers:
    """The best numbers of neurons of one MLP: corners of the convex hull of (cost, lost)."""

    def __init__(self, costs: np.ndarray, lost: np.ndarray) -> None:
        """At least one neuron stays.

        Args:
            costs: (n + 1,), of 0, 1, 2 ... neurons.
            lost: (n + 1,), where so many stay.
        """
        self.costs = np.maximum.accumulate(costs)  # a measured table may be uneven
        self.lost = lost
        corners = [len(lost) - 1]  # descending
        for n in range(len(lost) - 2, 0, -1):
            if not np.isfinite(lost[n]):
                break
            while len(corners) > 1 and self._price(corners[-1], n) <= self._price(
                corners[-2], corners[-1]
            ):
                corners.pop()
            corners.append(n)
        self.corners = np.array(corners)
        self.prices = np.array([self._price(a, b) for a, b in zip(corners, corners[1:])])

    def _price(self, more: int, fewer: int) -> float:
        """What is lost per cost between two numbers."""
        saved = max(self.costs[more] - self.costs[fewer], 1e-300)
        return float((self.lost[fewer] - self.lost[more]) / saved)

    def at(self, price: float) -> int:
        """How many stay at a price per cost."""
        return int(self.corners[np.searchsorted(self.prices, price)])

    def saving(self, more: int, fewer: int, cost: float) -> int:
        """The largest number from ``more`` down to ``fewer`` that saves at least this much."""
        enough = self.costs[more] - self.costs[fewer : more + 1] >= cost
        return fewer + int(np.flatnonzero(enough)[-1]) if enough.any() else fewer
