"""What came of it: the frontier (Figure 6), evaluations and speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroprune_experiments.frontier.figures import frontier_panels
from neuroprune_experiments.report.panels import Picture, Section, Table
from neuroprune_experiments.report.sources import Results
from neuroprune_fairseq.files.results import table_rows


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
    what = str(settings.get("pruned") or "model")
    if arch := settings.get("arch"):  # no trained model, but one cut at random
        shares = ((part, settings.get(part)) for part in ("heads", "neurons"))
        texts = [f"{share:.0%} of {part}" for part, share in shares if isinstance(share, float)]
        what = ", ".join([str(arch), *texts])
    where = [str(hardware[key]) for key in _HARDWARE if hardware.get(key)]
    if where and hardware.get("cores"):
        where[-1] += " cores"
    return f"{what}, on {', '.join(where)}" if where else what


def _speed_table(result: dict[str, Any]) -> Table:
    """A row for each contender and number of cores, a column for each batch size and beam."""
    best = result["best"]
    columns = sorted({(row["batch_size"], row["beam"]) for row in best})
    titles = (f"batch {batch}, beam {beam}" for batch, beam in columns)
    rows = [["engine and model", "cores", *titles, "memory MB"]]
    for contender, cores in dict.fromkeys((r["contender"], r["available_cores"]) for r in best):
        own = [r for r in best if (r["contender"], r["available_cores"]) == (contender, cores)]
        cells = {
            (row["batch_size"], row["beam"]): f"{row['tokens_per_second']:,.0f} "
            f"({row['speed_up']:.2f} ×)"
            for row in own
        }
        memory = max(row.get("peak_bytes") or 0 for row in own)
        rows.append([contender, str(cores), *(cells.get(column, "-") for column in columns)])
        rows[-1].append(f"{memory / 1e6:.0f}" if memory else "-")
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
        "CTranslate2, each with its best use of the cores, and in brackets how many times that is "
        "dense fairseq's speed; memory is the most that any of a row's measurements took.",
        tables=[_speed_table(result) for result in speeds],
    )
