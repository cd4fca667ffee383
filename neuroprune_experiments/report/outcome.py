"""The course of training; what came of it: the frontier (Figure 6), evaluations and speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroprune_experiments.comparison import comparison_rows
from neuroprune_experiments.figures import COLOURS
from neuroprune_experiments.frontier.figures import frontier_panels
from neuroprune_experiments.frontier.tradeoff import tradeoff_panels
from neuroprune_experiments.records import evaluation_rows
from neuroprune_experiments.report.page import INK, MUTED, Draw, Picture, Section, Table, shorten
from neuroprune_experiments.report.runs import SPARSITIES, Run

MOST_RUNS = 24
MOST_MARKS = 10  # numbers and points in one panel, before they run into each other

# Rows of a panel: title, and for each line its field, name, colour and line style.
_ROWS = {
    "loss": (("train_loss", "training", MUTED, "--"), ("valid_loss", "validation", INK, "-")),
    "BLEU": (("valid_bleu", "validation", COLOURS[2], "-"),),
    "heads kept": (("heads_kept", "", INK, "-"),),
    "sparsity": (
        ("attn_sparsity", "attention", COLOURS[0], "-"),
        ("mlp_sparsity", "MLP", COLOURS[1], "--"),
        ("total_sparsity", "total", INK, ":"),
    ),
}


def _values(runs: Sequence[Run], title: str) -> list[float]:
    return [v for run in runs for field, *_ in _ROWS[title] for v in run.values(field)[1]]


def _scale(axes: Axes, title: str, runs: Sequence[Run]) -> None:
    """The same axis for all runs, so that panels can be compared."""
    low, high = min(_values(runs, title)), max(_values(runs, title))
    margin = 0.08 * (high - low) or 1
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if title == "sparsity":
        axes.set(ylim=(-0.04, 1.04), yticks=(0, 0.5, 1))
    elif title == "heads kept":  # with room for the numbers of heads that went
        axes.set(ylim=(-0.08 * high, 1.5 * high), yticks=(0, high // 2, high))


def _plot_row(axes: Axes, run: Run, title: str) -> None:
    for field, name, colour, style in _ROWS[title]:
        epochs, values = run.values(field)
        marker = {"marker": "o", "markersize": 3 if len(epochs) <= MOST_MARKS else 0}
        axes.plot(epochs, values, color=colour, linestyle=style, label=name or None, **marker)
    for epoch in run.pruning_epochs:
        axes.axvline(epoch, color=COLOURS[1], alpha=0.35, linewidth=1.2, zorder=0)
    axes.set_title(title, color=MUTED)
    axes.grid(axis="y")
    if len(_ROWS[title]) > 1:
        place = {"loc": "lower right", "bbox_to_anchor": (1.01, 0.94), "ncols": len(_ROWS[title])}
        axes.legend(**place, handlelength=1.6, columnspacing=0.9, handletextpad=0.4)


def _mark_removals(axes: Axes, run: Run) -> None:
    """How many heads went, beside each moment of pruning; where these are few."""
    if len(run.pruning_epochs) > MOST_MARKS:
        return
    style = {"textcoords": "offset points", "ha": "right", "va": "top", "color": COLOURS[1]}
    for epoch in run.epochs:
        if epoch.heads_removed:
            place = (epoch.number, axes.get_ylim()[1])
            axes.annotate(f"−{epoch.heads_removed}", place, (-2, -1), **style)


def _training_panel(run: Run, titles: Sequence[str], runs: Sequence[Run]) -> Draw:
    numbers = [epoch.number for each in runs for epoch in each.epochs]
    margin = 0.06 * (max(numbers) - min(numbers)) or 0.5

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]
        for axes, title in zip(all_axes, titles):
            _plot_row(axes, run, title)
            _scale(axes, title, runs)
            if title == "heads kept":
                _mark_removals(axes, run)
        limits = (min(numbers) - 2 * margin, max(numbers) + margin)
        all_axes[-1].set(xlabel="epoch", xlim=limits)
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        figure.suptitle(shorten(run.label), x=0.01, ha="left", weight="bold", fontsize="medium")

    return draw


def _training_table(runs: Sequence[Run]) -> Table:
    names = ("train_loss", "valid_loss", "valid_bleu", "heads_kept", *SPARSITIES)
    rows = [["run", "epochs", *(name.replace("_", " ") for name in names), "heads went after"]]
    for run in runs:
        removed = [f"{e.number} (−{e.heads_removed})" for e in run.epochs if e.heads_removed]
        last = [f"{values[-1]:.4g}" if (values := run.values(n)[1]) else "-" for n in names]
        rows.append([run.label, str(len(run.epochs)), *last, ", ".join(removed) or "-"])
    return Table("Numbers of the last epoch", rows)


def training_section(runs: Sequence[Run]) -> Section | None:
    """The page's figure on training; None without runs."""
    runs = [run for run in runs if run.epochs]
    shown = runs[:MOST_RUNS]
    titles = [title for title in _ROWS if _values(shown, title)]
    if not titles:
        return None
    notes = [] if "BLEU" in titles else ["No run logged BLEU while it trained (--eval-bleu)."]
    notes.append("While it trains, a run counts as zero what is below its --near-zero.")
    if len(shown) < len(runs):
        notes.append(f"The first {len(shown)} of {len(runs)} runs are drawn.")
    panels = {f"Training of {r.label}": _training_panel(r, titles, shown) for r in shown}
    return Section(
        "training",
        notes=notes,
        pictures=[Picture("training", panels, 0.55 + 1.15 * len(titles))],
        folded_table=_training_table(runs),
    )


def frontier_section(
    evaluations: Sequence[dict[str, Any]], frontier: Sequence[dict[str, Any]]
) -> Section | None:
    """The page's figure on BLEU, heads and sparsity; None without evaluations."""
    if not evaluations:
        return None
    pictures = []
    if frontier:
        pictures = [Picture("frontier", frontier_panels(frontier), 3.8, columns=2)]
    return Section(
        "frontier",
        pictures=pictures,
        folded_table=Table("Numbers", evaluation_rows(evaluations)),
    )


def _place(result: dict[str, Any]) -> str:
    """The machine, as far as it is known, behind a comma."""
    hardware = result.get("hardware", {})
    where = [str(hardware[key]) for key in ("cpu", "gpu") if hardware.get(key)]
    where += [f"{hardware['cores']} cores"] if hardware.get("cores") else []
    return f", on {', '.join(where)}" if where else ""


def _conditions(result: dict[str, Any]) -> str:
    """What was measured, and where."""
    settings = result.get("settings", {})
    what = str(settings.get("pruned") or "model")
    if arch := settings.get("arch"):  # no trained model, but one cut at random
        shares = ((part, settings.get(part)) for part in ("heads", "neurons"))
        texts = [f"{share:.0%} of {part}" for part, share in shares if isinstance(share, float)]
        what = ", ".join([str(arch), *texts])
    return what + _place(result)


def _speed_table(result: dict[str, Any]) -> Table:
    """A row for each contender and number of cores, a column for each batch size and beam."""
    best = result["best"]
    columns = sorted({(row["batch_size"], row["beam"]) for row in best})
    titles = (f"batch {batch}, beam {beam}" for batch, beam in columns)
    rows = [["engine and model", "cores", *titles, "memory MB"]]
    for contender, cores in dict.fromkeys((r["contender"], r["available_cores"]) for r in best):
        own = [r for r in best if (r["contender"], r["available_cores"]) == (contender, cores)]
        cells = {
            (r["batch_size"], r["beam"]): f"{r['tokens_per_second']:,.0f} ({r['speed_up']:.2f} ×)"
            for r in own
        }
        memory = max(row.get("peak_bytes") or 0 for row in own)
        rows.append([contender, str(cores), *(cells.get(column, "-") for column in columns)])
        rows[-1].append(f"{memory / 1e6:.0f}" if memory else "-")
    return Table(_conditions(result), rows)


def _comparison_pictures(comparisons: Sequence[dict[str, Any]]) -> list[Picture]:
    """BLEU against speed, a picture for each file."""
    pictures = []
    for number, comparison in enumerate(comparisons, start=1):
        scored = [row for row in comparison["rows"] if "bleu" in row]
        name = "bleu-speed" if number == 1 else f"bleu-speed-{number}"
        if scored:
            pictures.append(Picture(name, tradeoff_panels(scored, "speed"), 3.8, columns=2))
    return pictures


def _comparison_table(result: dict[str, Any]) -> Table:
    base = f"speed-up over {result['baseline']}" if "baseline" in result else "speed-up"
    return Table(base + _place(result), comparison_rows(result["rows"]))


def speed_section(
    speeds: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]] = ()
) -> Section | None:
    """The page's speed tables and BLEU against speed; None without measurements."""
    if not speeds and not comparisons:
        return None
    return Section(
        "speed",
        pictures=_comparison_pictures(comparisons),
        tables=[*map(_speed_table, speeds), *map(_comparison_table, comparisons)],
    )
