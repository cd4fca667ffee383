"""The picture of a frontier (the paper's Figure 6) and a CSV file of its points."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neuroprune_experiments.figures import COLOURS, plt, save_figure
from neuroprune_experiments.frontier.records import methods_in, settings_text
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.text import csv_cell

# The same method looks the same in every picture; unknown ones take what is left.
STYLES = {
    "neuroprune": ("o", "-"),
    "neuroprune-proximal": ("p", "-"),
    "dsp": ("s", "--"),
    "neuroprune-target": ("D", "-."),
    "dsp-pipelined": ("v", ":"),
    "dsp-straight-through": ("^", ":"),
    "voita": ("P", ":"),
    "michel": ("X", ":"),
    "l1": ("*", ":"),
}
SPARE_MARKERS = ("h", "<", ">", "d", "H", "8")
# Drawn at this width (inches) and this size so that it can be read at half of it.
WIDTH, FONT_SIZE = 7.2, 12
# A model that lost more than a fifth of the best BLEU is on nobody's frontier.
LOWEST_BAND = 0.8

Record = dict[str, Any]


def method_styles(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Marker and line style of every method in the records."""
    spare = iter(SPARE_MARKERS * len(records))
    there = methods_in(records)
    names = [name for name in STYLES if name in there]
    names += [name for name in there if name not in STYLES]
    return {name: STYLES.get(name) or (next(spare), ":") for name in names}


def band_edges(records: Sequence[Record], edges: Sequence[float] = ()) -> list[float]:
    """Edges of the validation BLEU bands, ascending.

    Args:
        records: at least one.
        edges: what the user wants; empty: round numbers, three or so bands up to the best.
    """
    if edges:
        return list(edges)
    best = max(record["valid_bleu"] for record in records)
    return [float(edge) for edge in MaxNLocator(3).tick_values(LOWEST_BAND * best, best)]


def band_of(record: Record, edges: Sequence[float]) -> int | None:
    """The number of a record's band, None outside all; the last one includes its end."""
    bleu = record["valid_bleu"]
    for number, (low, high) in enumerate(zip(edges, edges[1:])):
        if low <= bleu < high or bleu == high == edges[-1]:
            return number
    return None


def upper_hull(records: Sequence[Record]) -> list[Record]:
    """The records on the upper side of the convex hull of (heads kept, total sparsity).

    Returns:
        From the fewest heads to the most; one record for each number of heads.
    """
    best: dict[int, Record] = {}
    for record in records:
        heads = record["heads_kept"]
        if heads not in best or record["total_sparsity"] > best[heads]["total_sparsity"]:
            best[heads] = record
    hull: list[Record] = []
    for record in (best[heads] for heads in sorted(best)):
        while len(hull) > 1 and _turn(hull[-2], hull[-1], record) > 1e-9:
            hull.pop()
        hull.append(record)
    return hull


def _turn(first: Record, second: Record, third: Record) -> float:
    """Above 0 where the second lies below the line from the first to the third."""
    x = [record["heads_kept"] for record in (first, second, third)]
    y = [record["total_sparsity"] for record in (first, second, third)]
    return (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])


def band_fronts(
    records: Sequence[Record], edges: Sequence[float]
) -> dict[tuple[str, int], list[Record]]:
    """The efficient frontier of each method among its models of about equal BLEU.

    A curve is the upper hull, so that it shows how sparse a method gets for each number
    of heads. The models on it are a variety to choose from, as in the paper; those that
    are best in all respects would often be a single one.

    Returns:
        By method and number of the band, ordered by heads kept.
    """
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        band = band_of(record, edges)
        if band is not None:
            groups.setdefault((record["method"], band), []).append(record)
    return {key: upper_hull(group) for key, group in groups.items()}


def _band_colour(edges: Sequence[float], band: int) -> str:
    """The best band is blue, the next vermilion, and so on down."""
    return COLOURS[(len(edges) - 2 - band) % len(COLOURS)]


def _marker_size(marker: str, size: float) -> float:
    return size * 1.5 if marker in "*XP" else size


def _plot_bleu(figure: Figure, axes: Axes, records: Sequence[Record], styles: dict) -> None:
    """BLEU against heads kept; the marker is the method, the colour the sparsity."""
    highest = max(record["total_sparsity"] for record in records)
    norm = Normalize(0, max(highest, 0.05))
    for method, (marker, _) in styles.items():
        own = [record for record in records if record["method"] == method]
        axes.scatter(
            [record["heads_kept"] for record in own],
            [record["bleu"] for record in own],
            c=[record["total_sparsity"] for record in own],
            **{"cmap": "cividis_r", "norm": norm, "marker": marker, "linewidths": 0.8},
            **{"s": _marker_size(marker, 55), "edgecolors": "black"},
        )
    axes.set_ylabel("BLEU (test)")
    mappable = ScalarMappable(norm, "cividis_r")
    place = axes.inset_axes((0.02, 1.05, 0.96, 0.05))
    bar = figure.colorbar(mappable, cax=place, orientation="horizontal")
    bar.set_label("sparsity")
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.ax.xaxis.set_ticks_position("top")
    bar.ax.xaxis.set_label_position("top")


def _plot_fronts(axes: Axes, records: Sequence[Record], styles: dict, edges: list[float]) -> None:
    """Heads kept against sparsity: a curve for each method and band; other runs are faint."""
    fronts = band_fronts(records, edges)
    for record in records:
        band = band_of(record, edges)
        if band is not None:
            marker, colour = styles[record["method"]][0], _band_colour(edges, band)
            place = (record["heads_kept"], record["total_sparsity"])
            axes.plot(*place, marker, color=colour, alpha=0.25, markersize=4, markeredgewidth=0)
    for (method, band), front in fronts.items():
        marker, line = styles[method]
        axes.plot(
            [record["heads_kept"] for record in front],
            [record["total_sparsity"] for record in front],
            **{"marker": marker, "linestyle": line, "color": _band_colour(edges, band)},
            **{"markersize": _marker_size(marker, 6.5), "markeredgecolor": "black"},
            **{"markeredgewidth": 0.6, "linewidth": 1.8},
        )
    bands = sorted({band for _, band in fronts}, reverse=True)
    handles = [Line2D([], [], color=_band_colour(edges, band), linewidth=4) for band in bands]
    labels = [f"{edges[band]:g}–{edges[band + 1]:g}" for band in bands]
    if bands:
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
        spacing = {"handlelength": 1.0, "columnspacing": 1.0, "labelspacing": 0.25}
        axes.legend(
            *(handles, labels),
            **{"title": "BLEU (validation)", "title_fontsize": _small(), "frameon": False},
            **{**place, **spacing, "fontsize": _small()},
        )
    axes.set_ylabel("sparsity")


def _small() -> float:
    """Font size of legends."""
    return 0.95 * plt.rcParams["font.size"]


def _finish(axes: Axes, records: Sequence[Record]) -> None:
    axes.set_xlabel("heads kept")
    axes.set_xlim(-3, max(record["heads_total"] for record in records) + 3)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _method_legend(figure: Figure, styles: dict, columns: int) -> None:
    """Below the whole figure: marker and line of every method."""
    handles = [
        Line2D([], [], marker=marker, linestyle=line, color="black", markerfacecolor="white")
        for marker, line in styles.values()
    ]
    place = {"loc": "outside lower center", "ncols": min(columns, len(styles)), "handlelength": 2.6}
    figure.legend(handles, [*styles], columnspacing=1.2, fontsize=_small(), **place)


def frontier_panels(
    records: Sequence[Record], edges: Sequence[float] = ()
) -> dict[str, Callable[[Figure], None]]:
    """The two halves of Figure 6, each to be drawn on a figure of its own.

    Args:
        records: as :func:`.frontier.records.read_results` returns them.
        edges: of the BLEU bands; empty: chosen here.

    Returns:
        By what a half shows, what draws it.
    """
    styles = method_styles(records)

    def draw(plot: Callable[[Figure, Axes], None]) -> Callable[[Figure], None]:
        def draw_on(figure: Figure) -> None:
            axes = figure.subplots()
            plot(figure, axes)
            _finish(axes, records)
            _method_legend(figure, styles, 2)

        return draw_on

    bands = band_edges(records, edges)
    return {
        "BLEU against heads kept": draw(lambda f, axes: _plot_bleu(f, axes, records, styles)),
        "Sparsity against heads kept, for models of about equal BLEU": draw(
            lambda f, axes: _plot_fronts(axes, records, styles, bands)
        ),
    }


def draw_frontier(
    records: Sequence[Record], stem: str | Path, edges: Sequence[float] = ()
) -> list[Path]:
    """Draw Figure 6 of the paper.

    Args:
        records: as :func:`.frontier.records.read_results` returns them.
        stem: path of the picture without its suffix.
        edges: of the BLEU bands; empty: chosen here.

    Returns:
        The paths of the PNG and the SVG.
    """
    styles = method_styles(records)
    with plt.rc_context({"font.size": FONT_SIZE}):
        rows = -(-len(styles) // 4)
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(WIDTH, 3.5 + 0.25 * rows), width_ratios=(1.1, 1), layout="constrained"
        )
        _plot_bleu(figure, left, records, styles)
        _plot_fronts(right, records, styles, band_edges(records, edges))
        for axes in (left, right):
            _finish(axes, records)
        _method_legend(figure, styles, 4)
        return save_figure(figure, stem)


def write_points(records: Sequence[Record], path: Path, edges: Sequence[float] = ()) -> Path:
    """Write what the picture shows as CSV, one line a run.

    Returns:
        ``path``.
    """
    edges = band_edges(records, edges)
    on_front = {id(record) for front in band_fronts(records, edges).values() for record in front}
    columns = "method seed heads_kept heads_total bleu valid_bleu total_sparsity attn_sparsity"
    columns = f"{columns} mlp_sparsity train_seconds".split()
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "settings", "valid_bleu_band", "on_front_of_band"])
        for record in records:
            band = band_of(record, edges)
            text = "" if band is None else f"{edges[band]:g}-{edges[band + 1]:g}"
            row = [record.get(column, "") for column in columns]
            row += [settings_text(record), text, int(id(record) in on_front)]
            writer.writerow(map(csv_cell, row))
    return path
