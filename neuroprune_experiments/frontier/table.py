"""Tables of a frontier: best BLEU at each number of heads, hypervolume of each front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroprune_experiments.frontier.front import hypervolume, pareto_mask
from neuroprune_experiments.frontier.records import Candidate, candidates, methods_in, select
from neuroprune_fairseq.files.text import markdown_cell

SELECTION = "Selected by validation BLEU; BLEU is that of the test set."
VOLUME = (
    "Hypervolume: objectives test BLEU / 100, share of heads removed, share of zero weights "
    "(total sparsity), all in [0, 1]; reference point (0, 0, 0): BLEU 0, all heads, no zeros. "
    "The front is chosen with validation BLEU."
)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned for reading as plain text; the first row is its head."""
    rows = [list(map(markdown_cell, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _row(heads: str, chosen: Candidate) -> list[str]:
    spread = f" ± {chosen.bleu_spread:.2f}" if chosen.seeds > 1 else ""
    return [
        heads,
        chosen.method,
        f"{chosen.bleu:.2f}{spread}",
        f"{chosen.valid_bleu:.2f}",
        f"{chosen.total_sparsity:.3f}",
        str(chosen.seeds),
        chosen.settings,
    ]


def best_by_heads(
    records: Sequence[dict[str, Any]], at_most: Sequence[int] = ()
) -> list[tuple[str, Candidate]]:
    """The selected run of each method at each number of heads, most heads first.

    Args:
        records: as :func:`.records.read_results` returns them.
        at_most: numbers of heads; a method's entry is then its best run with that number
            or fewer. Empty: every number that occurs, exactly.

    Returns:
        The number as text and the selected candidate.
    """
    found = candidates(records)
    numbers = sorted({*at_most} or {c.heads_kept for c in found}, reverse=True)
    best = []
    for number in numbers:
        for method in methods_in(records):
            of_method = [c for c in found if c.method == method]
            if at_most:
                fitting = [c for c in of_method if c.heads_kept <= number]
            else:
                fitting = [c for c in of_method if c.heads_kept == number]
            if fitting:
                chosen = select(fitting)
                text = f"<= {number} ({chosen.heads_kept})" if at_most else str(number)
                best.append((text, chosen))
    return best


def volumes(records: Sequence[dict[str, Any]], method: str) -> tuple[float, float, int]:
    """Hypervolume of a method's front.

    Args:
        records: of any methods.
        method: the one to look at.

    Returns:
        The volume of (BLEU, heads removed, sparsity); the area of (BLEU, heads removed),
        whose front is chosen without sparsity; the number of runs on the first front.
    """
    own = [record for record in records if record["method"] == method]
    removed = [1 - record["heads_kept"] / record["heads_total"] for record in own]
    sparsities = [record["total_sparsity"] for record in own]
    valid, test = ([record[key] / 100 for record in own] for key in ("valid_bleu", "bleu"))
    space = pareto_mask(list(zip(valid, removed, sparsities)))
    plane = pareto_mask(list(zip(valid, removed)))
    in_space = [p for p, kept in zip(zip(test, removed, sparsities), space) if kept]
    in_plane = [p for p, kept in zip(zip(test, removed), plane) if kept]
    return hypervolume(in_space, (0, 0, 0)), hypervolume(in_plane, (0, 0)), int(space.sum())


def format_tables(records: Sequence[dict[str, Any]], at_most: Sequence[int] = ()) -> str:
    """Both tables with what they mean, as Markdown."""
    head = ["heads kept", "method", "BLEU", "validation", "sparsity", "seeds", "settings"]
    rows = [head, *(_row(text, chosen) for text, chosen in best_by_heads(records, at_most))]
    fronts = [["method", "hypervolume", "without sparsity", "runs", "on the front"]]
    for method in methods_in(records):
        space, plane, members = volumes(records, method)
        runs = sum(record["method"] == method for record in records)
        fronts.append([method, f"{space:.4f}", f"{plane:.4f}", str(runs), str(members)])
    return "\n\n".join([_markdown(rows), SELECTION, _markdown(fronts), VOLUME])
