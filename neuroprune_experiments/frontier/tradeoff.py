"""BLEU against speed, heads or sparsity: a series for each method, error bars over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroprune_experiments.comparison import read_comparison
from neuroprune_experiments.figures import COLOURS, plt, save_figure
from neuroprune_experiments.frontier.figures import FONT_SIZE, WIDTH, method_styles
from neuroprune_experiments.frontier.table import settings_text
from neuroprune_experiments.records import read_frontier, write_csv
from neuroprune_fairseq.files.errors import refuse

Record = dict[str, Any]  # comparison.ComparisonRow, or records.FrontierRecord
# What BLEU is drawn against: the record's entry, and what it is.
AXES = {
    "speed": ("speedup", "times as fast as the baseline"),
    "heads": ("heads_kept", "heads kept"),
    "sparsity": ("total_sparsity", "sparsity"),
}
COLUMNS = 2
Styles = dict[str, tuple[str, str]]  # marker and line of each method


@dataclass(frozen=True)
class Point:
    """Models that differ in their seed only: means, and standard deviations (0 for one)."""

    method: str
    settings: str
    x: float
    bleu: float
    x_spread: float
    bleu_spread: float
    seeds: int


def read_tradeoff(paths: Sequence[str | Path]) -> list[Record]:
    """Records with BLEU from results of benchmarks/bleu_and_speed.py or neuroprune-frontier run.

    Raises:
        SystemExit: one line that names the file and what is wrong with it.
    """
    found: list[Record] = []
    for path in paths:
        comparison = read_comparison(path)
        found += comparison["rows"] if comparison else read_frontier([path])
    return [record for record in found if "bleu" in record]


def narrowed(records: Sequence[Record], flag: str, value: Any) -> list[Record]:
    """The records that have a value in the entry named after a flag; all where it is None.

    Raises:
        SystemExit: one line that names the flag, when there is none.
    """
    if value is None:
        return [*records]
    name = flag.replace("-", "_")
    found = [record for record in records if record.get(name) == value]
    if not found:
        there = ", ".join(map(str, dict.fromkeys(r[name] for r in records if name in r)))
        refuse(f"--{flag} {value}: there are only results of {there or 'an unknown one'}")
    return found


def check_axis(records: Sequence[Record], x: str) -> None:
    """Refuse records that lack what BLEU is to be drawn against."""
    if without := next((r for r in records if AXES[x][0] not in r), None):
        writer = "benchmarks/bleu_and_speed.py measures" if x == "speed" else "a checkpoint tells"
        refuse(f"--x {x}: {without.get('label', 'a model')} has none; {writer} it")


def points(records: Sequence[Record], x: str) -> list[Point]:
    """Join the seeds of equal settings.

    Args:
        records: of one engine, compute type, beam and batch size.
        x: key of :data:`AXES`.

    Returns:
        By method, and of a method by ``x``. A model without settings stands for itself.
    """

    def key(record: Record) -> tuple[str, str]:
        return record["method"], settings_text(record) or str(record.get("label", ""))

    found = []
    for (method, settings), group in groupby(sorted(records, key=key), key):
        values = [(record[AXES[x][0]], record["bleu"]) for record in group]
        means = [mean(each) for each in zip(*values)]
        spreads = [stdev(each) if len(values) > 1 else 0.0 for each in zip(*values)]
        found.append(Point(method, settings, *means, *spreads, len(values)))
    return sorted(found, key=lambda point: (point.method, point.x))


def by_setting(records: Sequence[Record], x: str) -> dict[str, list[Record]]:
    """Records by how the models were run, in words; batches matter to speed alone."""
    groups: dict[str, dict[Any, Record]] = {}
    for number, record in enumerate(records):
        title, model = "", number
        if "compute_type" in record:  # of a comparison, where a model has many rows
            title = f"{record['engine']} {record['compute_type']}, beam {record['beam']}"
            title += f", batch {record['batch_size']}" if x == "speed" else ""
            model = record["label"]
        groups.setdefault(title, {}).setdefault(model, record)
    return {title: [*group.values()] for title, group in groups.items()}


def _plot(axes: Axes, records: Sequence[Record], x: str, title: str, styles: Styles) -> None:
    """A series for each method."""
    found = points(records, x)
    for number, (method, (marker, line)) in enumerate(styles.items()):
        own = [point for point in found if point.method == method]
        bars = {}
        if any(point.seeds > 1 for point in own):
            bars = {"xerr": [p.x_spread for p in own], "yerr": [p.bleu_spread for p in own]}
        style = {"marker": marker, "linestyle": line, "color": COLOURS[number % len(COLOURS)]}
        place = ([point.x for point in own], [point.bleu for point in own])
        axes.errorbar(*place, **bars, **style, label=method, capsize=3, elinewidth=1)
    axes.set(xlabel=AXES[x][1], ylabel="BLEU (test)")
    axes.set_title(title, fontsize="small")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": min(columns, len(labels))}
    figure.legend(handles, labels, **place, columnspacing=1.2, fontsize="medium")


def tradeoff_panels(records: Sequence[Record], x: str) -> dict[str, Callable[[Figure], None]]:
    """The picture's parts, each to be drawn on a figure of its own.

    Args:
        records: as :func:`read_tradeoff` returns them.
        x: key of :data:`AXES`.

    Returns:
        By what a part shows, what draws it.
    """
    styles = method_styles(records)

    def draw(title: str, group: list[Record]) -> Callable[[Figure], None]:
        def draw_on(figure: Figure) -> None:
            axes = figure.subplots()
            _plot(axes, group, x, title, styles)
            _legend(figure, axes, 2)

        return draw_on

    groups = by_setting(records, x).items()
    return {f"BLEU against {x}, {title}".rstrip(", "): draw(title, g) for title, g in groups}


def draw_tradeoff(records: Sequence[Record], x: str, stem: str | Path) -> list[Path]:
    """Draw BLEU against one quantity, a panel for each way of running the models.

    Args:
        records, x: as for :func:`tradeoff_panels`.
        stem: path of the picture without its suffix.

    Returns:
        The paths of the PNG and the SVG.
    """
    groups, styles = by_setting(records, x), method_styles(records)
    columns = min(COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    with plt.rc_context({"font.size": FONT_SIZE}):
        size = {"figsize": (WIDTH, 0.8 + 3.2 * rows), "layout": "constrained"}
        figure, grid = plt.subplots(rows, columns, squeeze=False, **size)
        for axes in grid.flat[len(groups) :]:
            axes.set_axis_off()
        for axes, (title, group) in zip(grid.flat, groups.items()):
            _plot(axes, group, x, title, styles)
        _legend(figure, grid.flat[0], 4)
        return save_figure(figure, stem)


def write_tradeoff(records: Sequence[Record], x: str, path: Path) -> Path:
    """Write what the picture shows as CSV, a line for each point; returns ``path``."""
    names = [*Point.__dataclass_fields__]
    rows = [["setting", *(AXES[x][0] if name == "x" else name for name in names)]]
    for title, group in by_setting(records, x).items():
        rows += [[title, *(getattr(p, name) for name in names)] for p in points(group, x)]
    return write_csv(path, rows)
