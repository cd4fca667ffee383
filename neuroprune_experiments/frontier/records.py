"""Results of a frontier: reading them, choosing among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from neuroprune_fairseq.files.results import (
    BLEU,
    COUNT,
    SHARE,
    heads_fault,
    number_fault,
    read_lines,
)

# Every number that a picture or a table needs, and what it must lie between.
_NUMBERS = {
    **{"bleu": BLEU, "valid_bleu": BLEU, "heads_kept": COUNT, "heads_total": (1, COUNT[1])},
    "total_sparsity": SHARE,
}


def record_fault(record: dict[str, Any]) -> str:
    """What is wrong with a line of a results file, "" if nothing."""
    if not isinstance(record.get("method"), str) or not record["method"]:
        return "lacks 'method'"
    if not isinstance(record.get("settings", {}), dict):
        return "has no settings in 'settings'"
    return number_fault(record, _NUMBERS) or heads_fault(record)


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The records of one or many results files.

    Args:
        paths: JSON Lines as ``neuroprune-frontier run`` writes them; blank lines are skipped.

    Raises:
        SystemExit: one line that names the file and the line, when one is missing, empty
            or damaged.
    """
    writer = "neuroprune-frontier run"
    return [record for path in paths for record in read_lines(path, record_fault, writer)]


def settings_text(record: dict[str, Any]) -> str:
    """A record's settings on one line, "" where it has none."""
    settings = record.get("settings", {})
    return " ".join(f"{name}={value}" for name, value in sorted(settings.items()))


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


def candidates(records: Iterable[dict[str, Any]]) -> list[Candidate]:
    """Join the seeds of equal settings, where they led to the same number of heads."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        training = (record.get("epochs"), record.get("tolerance"), record.get("flags"))
        settings = settings_text(record) or str(record.get("label", ""))
        key = (record["method"], record["heads_kept"], settings, str(training))
        groups[key].append(record)
    return [
        Candidate(
            *key[:3],
            valid_bleu=mean(record["valid_bleu"] for record in group),
            bleu=mean(record["bleu"] for record in group),
            bleu_spread=stdev([record["bleu"] for record in group]) if len(group) > 1 else 0.0,
            total_sparsity=mean(record["total_sparsity"] for record in group),
            seeds=len(group),
        )
        for key, group in groups.items()
    ]


def select(found: Sequence[Candidate]) -> Candidate:
    """The best of some candidates by validation BLEU; of equals the one of fewer heads."""
    return max(found, key=lambda c: (c.valid_bleu, -c.heads_kept, c.total_sparsity))


def methods_in(records: Iterable[dict[str, Any]]) -> list[str]:
    """The methods of some records, in the order of their first."""
    return list(dict.fromkeys(record["method"] for record in records))
