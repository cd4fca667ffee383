"""Choosing among the runs of a frontier, hypervolumes, and tables of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neuroprune_experiments.records import markdown

Record = dict[str, Any]  # records.FrontierRecord
SELECTION = "Selected by validation BLEU; BLEU is that of the test set."
VOLUME = (
    "Hypervolume: objectives test BLEU / 100, share of heads removed, share of zero weights "
    "(total sparsity), all in [0, 1]; reference point (0, 0, 0): BLEU 0, all heads, no zeros. "
    "The front is chosen with validation BLEU."
)


def pareto_mask(points: ArrayLike) -> np.ndarray:
    """Which points no other point dominates, every objective being the larger the better.

    A point dominates another if it is at least as good in every objective and better in
    one; equal points do not dominate each other.

    Args:
        points: (points, objectives).

    Returns:
        (points,), bool.
    """
    values = np.asarray(points, dtype=float)
    if not len(values):
        return np.zeros(0, dtype=bool)
    one, other = values[:, None], values[None]
    return ~((other >= one).all(axis=2) & (other > one).any(axis=2)).any(axis=1)


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Volume of what the points dominate above a reference point.

    The space is cut along the last objective at every point's value; between two cuts the
    volume is that of the points above, in one dimension less, times the distance.

    Args:
        points: (points, objectives), larger is better.
        reference: (objectives,); a point that is not above it in all of them adds nothing.
    """
    values = np.asarray(points, dtype=float).reshape(-1, len(reference)) - np.asarray(reference)
    values = values[(values > 0).all(axis=1)]
    if len(values) == 0 or len(reference) == 1:
        return float(values.max(initial=0.0))
    values = values[np.argsort(-values[:, -1], kind="stable")]
    depths = -np.diff(values[:, -1], append=0.0)
    origin = [0.0] * (len(reference) - 1)
    slices = (hypervolume(values[: n + 1, :-1], origin) for n in range(len(values)))
    return float(sum(depth * area for depth, area in zip(depths, slices)))


def settings_text(record: Record) -> str:
    """A record's settings on one line, "" where it has none."""
    return " ".join(f"{name}={value}" for name, value in sorted(record.get("settings", {}).items()))


@dataclass(frozen=True)
class Candidate:
    """Runs of one method that differ in their seed only: what is selected, then reported."""

    method: str
    heads_kept: int
    settings: str
    valid_bleu: float
    bleu: float
    bleu_spread: float  # standard deviation over the seeds, 0 for one
    total_sparsity: float
    seeds: int


def candidates(records: Iterable[Record]) -> list[Candidate]:
    """Join the seeds of equal settings, where they led to the same number of heads."""

    def key(record: Record) -> tuple:
        training = str([record.get(name) for name in ("epochs", "tolerance", "flags")])
        settings = settings_text(record) or str(record.get("label", ""))
        return record["method"], record["heads_kept"], settings, training

    found = []
    for same, group in groupby(sorted(records, key=key), key):
        valid, test, sparsity = zip(
            *((r["valid_bleu"], r["bleu"], r["total_sparsity"]) for r in group)
        )
        spread = stdev(test) if len(test) > 1 else 0.0
        numbers = (mean(valid), mean(test), spread, mean(sparsity), len(test))
        found.append(Candidate(*same[:3], *numbers))
    return found


def select(found: Sequence[Candidate]) -> Candidate:
    """The best of some candidates by validation BLEU; of equals the one of fewer heads."""
    return max(found, key=lambda c: (c.valid_bleu, -c.heads_kept, c.total_sparsity))


def methods_in(records: Iterable[Record]) -> list[str]:
    """The methods of some records, in the order of their first."""
    return list(dict.fromkeys(record["method"] for record in records))


def best_by_heads(
    records: Sequence[Record], at_most: Sequence[int] = ()
) -> list[tuple[str, Candidate]]:
    """The selected run of each method at each number of heads, most heads first.

    Args:
        records: as :func:`neuroprune_experiments.records.read_frontier` returns them.
        at_most: numbers of heads; a method's entry is then its best run with that number
            or fewer. Empty: every number that occurs, exactly.

    Returns:
        The number as text and the selected candidate.
    """
    found, best = candidates(records), []
    for number in sorted({*at_most} or {c.heads_kept for c in found}, reverse=True):
        for method in methods_in(records):
            own = [c for c in found if c.method == method and c.heads_kept <= number]
            fitting = own if at_most else [c for c in own if c.heads_kept == number]
            if fitting:
                chosen = select(fitting)
                text = f"<= {number} ({chosen.heads_kept})" if at_most else str(number)
                best.append((text, chosen))
    return best


def volumes(records: Sequence[Record], method: str) -> tuple[float, float, int]:
    """Hypervolume of a method's front.

    Returns:
        The volume of (BLEU, heads removed, sparsity); the area of (BLEU, heads removed),
        whose front is chosen without sparsity; the number of runs on the first front.
    """
    own = [record for record in records if record["method"] == method]
    valid, test = (np.array([r[name] for r in own]) / 100 for name in ("valid_bleu", "bleu"))
    removed = np.array([1 - record["heads_kept"] / record["heads_total"] for record in own])
    sparsity = np.array([float(record["total_sparsity"]) for record in own])
    space = pareto_mask(np.stack([valid, removed, sparsity], axis=1))
    plane = pareto_mask(np.stack([valid, removed], axis=1))
    volume = hypervolume(np.stack([test, removed, sparsity], axis=1)[space], (0, 0, 0))
    return volume, hypervolume(np.stack([test, removed], axis=1)[plane], (0, 0)), int(space.sum())


def _row(heads: str, chosen: Candidate) -> list[str]:
    spread = f" ± {chosen.bleu_spread:.2f}" if chosen.seeds > 1 else ""
    numbers = [f"{chosen.bleu:.2f}{spread}", f"{chosen.valid_bleu:.2f}"]
    numbers += [f"{chosen.total_sparsity:.3f}", str(chosen.seeds)]
    return [heads, chosen.method, *numbers, chosen.settings]


def format_tables(records: Sequence[Record], at_most: Sequence[int] = ()) -> str:
    """Both tables with what they mean, as Markdown."""
    head = ["heads kept", "method", "BLEU", "validation", "sparsity", "seeds", "settings"]
    rows = [head, *(_row(text, chosen) for text, chosen in best_by_heads(records, at_most))]
    fronts = [["method", "hypervolume", "without sparsity", "runs", "on the front"]]
    for method in methods_in(records):
        space, plane, members = volumes(records, method)
        runs = sum(record["method"] == method for record in records)
        fronts.append([method, f"{space:.4f}", f"{plane:.4f}", str(runs), str(members)])
    return "\n\n".join([markdown(rows), SELECTION, markdown(fronts), VOLUME])
