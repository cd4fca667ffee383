"""What came of it: the frontier (Figure 6), evaluations and speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroprune_fairseq.frontier_figures import frontier_panels
from neuroprune_fairseq.report.panels import Picture, Section, Table
from neuroprune_fairseq.report.sources import Results
from neuroprune_fairseq.results import table_rows


def frontier_section(results: Results) -> Section | None:
    """The page's figure on BLEU, heads and sparsity; None without evaluations."""
    if not results.evaluations:
        return None
    pictures = []
    if results.frontier:
        panels = frontier_panels(results.frontier)
        pictures = [Picture("frontier", panels, 3.8, columns=2)]
    return Section(
        anchor="frontier",
        title="BLEU, heads and sparsity",
        answers="Figure 6 of the paper",
        shows="BLEU against heads kept, coloured by sparsity; and for models of about equal "
        "validation BLEU how sparse each method gets for a number of heads."
        if pictures
        else "BLEU, heads and sparsities of the evaluated models.",
        pictures=pictures,
        folded_table=Table("Numbers", table_rows(results.evaluations)),
    )


_HARDWARE = ("cpu", "gpu", "cores")


def _conditions(result: dict[str, Any]) -> str:
    """What was measured, and where."""
    settings, hardware = result.get("settings", {}), result.get("hardware", {})
    what = settings.get("arch") or settings.get("pruned") or "model"
    where = [str(hardware[key]) for key in _HARDWARE if hardware.get(key)]
    if where and hardware.get("cores"):
        where[-1] += " cores"
    return f"{what}, on {', '.join(where)}" if where else str(what)


def _speed_table(result: dict[str, Any]) -> Table:
    rows = [["engine and model", "cores", "batch", "beam", "tokens/s", "speed-up", "memory MB"]]
    for row in result["best"]:
        memory = f"{row['peak_bytes'] / 1e6:.0f}" if row.get("peak_bytes") else "-"
        numbers = (row["available_cores"], row["batch_size"], row["beam"])
        speed = (f"{row['tokens_per_second']:,.0f}", f"{row['speed_up']:.2f} ×", memory)
        rows.append([row["contender"], *map(str, numbers), *speed])
    return Table(_conditions(result), rows)


def speed_section(speeds: Sequence[dict[str, Any]]) -> Section | None:
    """The page's speed tables; None without measurements."""
    if not speeds:
        return None
    return Section(
        anchor="speed",
        title="Speed",
        answers="the inference times in Figures 4 and 5 of the paper",
        shows="Tokens translated per second by the dense and the compact model in fairseq and in "
        "CTranslate2, each with its best use of the cores; the speed-up is over dense fairseq.",
        tables=[_speed_table(result) for result in speeds],
    )
