"""The course of training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroprune_experiments.figures import COLOURS
from neuroprune_experiments.report.panels import INK, MUTED, Picture, Section, Table, shorten
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


def _rows(runs: Sequence[Run]) -> dict[str, tuple]:
    """The rows for which some run has values."""
    return {
        title: lines
        for title, lines in _ROWS.items()
        if any(run.values(field)[0] for run in runs for field, *_ in lines)
    }


@dataclass(frozen=True)
class Scale:
    """An axis that is the same for all runs, so that panels can be compared."""

    limits: tuple[float, float]
    ticks: tuple[float, ...] | None = None  # None: where matplotlib puts them


def _scale(runs: Sequence[Run], title: str, lines: tuple) -> Scale:
    if title == "sparsity":
        return Scale((-0.04, 1.04), (0, 0.5, 1))
    values = [value for run in runs for field, *_ in lines for value in run.values(field)[1]]
    low, high = min(values), max(values)
    if title == "heads kept":  # with room for the numbers of heads that went
        return Scale((-0.08 * high, 1.5 * high), (0, high // 2, high))
    margin = 0.08 * (high - low) or 1
    return Scale((low - margin, high + margin))


def _plot_row(axes: Axes, run: Run, title: str, lines: tuple, scale: Scale) -> None:
    for field, name, colour, style in lines:
        epochs, values = run.values(field)
        marker = {"marker": "o", "markersize": 3 if len(epochs) <= MOST_MARKS else 0}
        axes.plot(epochs, values, color=colour, linestyle=style, label=name or None, **marker)
    for epoch in run.pruning_epochs:
        axes.axvline(epoch, color=COLOURS[1], alpha=0.35, linewidth=1.2, zorder=0)
    axes.set_title(title, color=MUTED)
    axes.grid(axis="y")
    axes.set_ylim(scale.limits)
    if scale.ticks:
        axes.set_yticks(scale.ticks)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    if len(lines) > 1:
        axes.legend(
            *axes.get_legend_handles_labels(),
            **{"loc": "lower right", "bbox_to_anchor": (1.01, 0.94), "ncols": len(lines)},
            **{"handlelength": 1.6, "columnspacing": 0.9, "handletextpad": 0.4},
        )


def _mark_removals(axes: Axes, run: Run) -> None:
    """How many heads went, beside each moment of pruning; where these are few."""
    if len(run.pruning_epochs) > MOST_MARKS:
        return
    for epoch in run.epochs:
        if epoch.heads_removed:
            axes.annotate(
                f"−{epoch.heads_removed}",
                (epoch.number, axes.get_ylim()[1]),
                **{"xytext": (-2, -1), "textcoords": "offset points"},
                **{"ha": "right", "va": "top", "color": COLOURS[1]},
            )


def _panel(
    run: Run, rows: dict[str, tuple], scales: dict[str, Scale], epochs: tuple[int, int]
) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, lines) in zip(all_axes, rows.items()):
            _plot_row(axes, run, title, lines, scales[title])
            if title == "heads kept":
                _mark_removals(axes, run)
        margin = 0.06 * (epochs[1] - epochs[0]) or 0.5
        all_axes[-1].set(xlabel="epoch", xlim=(epochs[0] - 2 * margin, epochs[1] + margin))
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        figure.suptitle(shorten(run.label), x=0.01, ha="left", weight="bold", fontsize="medium")

    return draw


def _last(run: Run, name: str) -> str:
    values = run.values(name)[1]
    return f"{values[-1]:.4g}" if values else "-"


def _table(runs: Sequence[Run]) -> Table:
    names = ("train_loss", "valid_loss", "valid_bleu", "heads_kept", *SPARSITIES)
    rows = [["run", "epochs", *(name.replace("_", " ") for name in names), "heads went after"]]
    for run in runs:
        removed = [f"{e.number} (−{e.heads_removed})" for e in run.epochs if e.heads_removed]
        last = [_last(run, name) for name in names]
        rows.append([run.label, str(len(run.epochs)), *last, ", ".join(removed) or "-"])
    return Table("Numbers of the last epoch", rows)


def section(runs: Sequence[Run]) -> Section | None:
    """The page's figure on training; None without runs."""
    runs = [run for run in runs if run.epochs]
    shown = runs[:MOST_RUNS]
    rows = _rows(shown)
    if not rows:
        return None
    scales = {title: _scale(shown, title, lines) for title, lines in rows.items()}
    numbers = [epoch.number for run in shown for epoch in run.epochs]
    epochs = (min(numbers), max(numbers))
    panels = {f"Training of {run.label}": _panel(run, rows, scales, epochs) for run in shown}
    names = ", ".join(rows)
    notes = [] if "BLEU" in rows else ["No run logged BLEU while it trained (--eval-bleu)."]
    notes.append("While it trains, a run counts as zero what is below its --near-zero.")
    if len(shown) < len(runs):
        notes.append(f"The first {len(shown)} of {len(runs)} runs are drawn.")
    return Section(
        anchor="training",
        title="The course of training",
        answers="Algorithm 1 of the paper, which has no figure of it",
        shows=f"{names[0].upper()}{names[1:]} at the end of every epoch, on the same scales for "
        "all runs; a coloured line and number mark where heads were removed.",
        notes=tuple(notes),
        pictures=[Picture("training", panels, 0.55 + 1.15 * len(rows))],
        folded_table=_table(runs),
    )
