"""Pareto fronts and their hypervolume. Every objective is to be maximised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import numpy as np

Points = Union[Sequence[Sequence[float]], np.ndarray]


def pareto_mask(points: Points) -> np.ndarray:
    """Which points no other point dominates.

    A point dominates another if it is at least as good in every objective and better in
    one; equal points do not dominate each other.

    Args:
        points: (points, objectives), larger is better.

    Returns:
        (points,), bool.
    """
    values = np.asarray(points, dtype=float)
    mask = np.ones(len(values), dtype=bool)
    for place, point in enumerate(values):
        mask[place] = not ((values >= point).all(axis=1) & (values > point).any(axis=1)).any()
    return mask


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Volume of what the points dominate above a reference point.

    The space is cut along the last objective at every point's value; between two cuts the
    volume is that of the points above, in one dimension less, times the distance.

    Args:
        points: (points, objectives), larger is better.
        reference: (objectives,); a point that is not above it in all of them adds nothing.
    """
    base = np.asarray(reference, dtype=float)
    values = np.asarray(points, dtype=float).reshape(-1, len(base)) - base
    values = values[(values > 0).all(axis=1)]
    return _volume_above_zero(values)


def _volume_above_zero(values: np.ndarray) -> float:
    """As :func:`hypervolume`, above the origin, of points that are all above it."""
    if len(values) == 0:
        return 0.0
    if values.shape[1] == 1:
        return float(values.max())
    values = values[np.argsort(-values[:, -1], kind="stable")]
    depths = values[:, -1] - np.append(values[1:, -1], 0.0)
    slices = (
        depth * _volume_above_zero(values[: number + 1, :-1])
        for number, depth in enumerate(depths)
        if depth > 0
    )
    return float(sum(slices))
