"""The picture of a frontier (the paper's Figure 6) and a CSV file of its points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neuroprune_experiments.figures import COLOURS, plt, save_figure
from neuroprune_experiments.frontier.table import methods_in, settings_text
from neuroprune_experiments.records import write_csv

# The same method looks the same in every picture; unknown ones take what is left.
STYLES = {
    "neuroprune": ("o", "-"),
    "neuroprune-proximal": ("p", "-"),
    "dsp": ("s", "--"),
    "neuroprune-target": ("D", "-."),
    "dsp-pipelined": ("v", ":"),
    "dsp-straight-through": ("^", ":"),
    "voita": ("P", ":"),
    "cofi": ("h", "--"),
    "michel": ("X", ":"),
    "l1": ("*", ":"),
}
SPARE_MARKERS = ("<", ">", "d", "H", "8")
# Drawn at this width (inches) and this size so that it can be read at half of it.
WIDTH, FONT_SIZE = 7.2, 12
# A model that lost more than a fifth of the best BLEU is on nobody's frontier.
LOWEST_BAND = 0.8

Record = dict[str, Any]  # records.FrontierRecord


def _column(records: Sequence[Record], name: str) -> list[Any]:
    return [record[name] for record in records]


def method_styles(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Marker and line style of every method in the records."""
    spare = iter(SPARE_MARKERS * len(records))
    names = sorted(methods_in(records), key=lambda name: [*STYLES, name].index(name))
    return {name: STYLES.get(name) or (next(spare), ":") for name in names}


def band_edges(records: Sequence[Record], edges: Sequence[float] = ()) -> list[float]:
    """Edges of the validation BLEU bands, ascending.

    Args:
        records: at least one.
        edges: what the user wants; empty: round numbers, three or so bands up to the best.
    """
    best = max(_column(records, "valid_bleu"))
    return list(edges) or MaxNLocator(3).tick_values(LOWEST_BAND * best, best).tolist()


def band_of(record: Record, edges: Sequence[float]) -> int | None:
    """The number of a record's band, None outside all; the last one includes its end."""
    bleu, last = record["valid_bleu"], len(edges) - 2
    band = last if bleu == edges[-1] else int(np.searchsorted(edges, bleu, side="right")) - 1
    return band if 0 <= band <= last else None


def band_text(edges: Sequence[float], band: int, dash: str = "–") -> str:
    """What a band is called."""
    return f"{edges[band]:g}{dash}{edges[band + 1]:g}"


def upper_hull(records: Sequence[Record]) -> list[Record]:
    """The records on the upper side of the convex hull of (heads kept, total sparsity).

    Returns:
        From the fewest heads to the most; one record for each number of heads.
    """
    ordered = sorted(records, key=lambda record: record["total_sparsity"])
    best = {record["heads_kept"]: record for record in ordered}  # the sparsest stays
    hull: list[Record] = []
    for heads in sorted(best):
        while len(hull) > 1 and _is_below(hull[-2], hull[-1], best[heads]):
            hull.pop()
        hull.append(best[heads])
    return hull


def _is_below(first: Record, second: Record, third: Record) -> bool:
    """Whether the second lies below the line from the first to the third."""
    (x0, y0), (x1, y1), (x2, y2) = (
        (record["heads_kept"], record["total_sparsity"]) for record in (first, second, third)
    )
    return (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) > 1e-9


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
        if (band := band_of(record, edges)) is not None:
            groups.setdefault((record["method"], band), []).append(record)
    return {key: upper_hull(group) for key, group in groups.items()}


def _band_colour(edges: Sequence[float], band: int) -> str:
    """The best band is blue, the next vermilion, and so on down."""
    return COLOURS[(len(edges) - 2 - band) % len(COLOURS)]


def _marker_size(marker: str, size: float) -> float:
    return size * 1.5 if marker in "*XP" else size


def _plot_bleu(figure: Figure, axes: Axes, records: Sequence[Record], styles: dict) -> None:
    """BLEU against heads kept; the marker is the method, the colour the sparsity."""
    norm = Normalize(0, max(0.05, *_column(records, "total_sparsity")))
    look = {"cmap": "cividis_r", "norm": norm, "linewidths": 0.8, "edgecolors": "black"}
    for method, (marker, _) in styles.items():
        own = [record for record in records if record["method"] == method]
        x, y, colour = (_column(own, name) for name in ("heads_kept", "bleu", "total_sparsity"))
        axes.scatter(x, y, c=colour, marker=marker, s=_marker_size(marker, 55), **look)
    axes.set_ylabel("BLEU (test)")
    place = axes.inset_axes((0.02, 1.05, 0.96, 0.05))
    bar = figure.colorbar(ScalarMappable(norm, "cividis_r"), cax=place, orientation="horizontal")
    bar.set_label("sparsity")
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.ax.xaxis.set_ticks_position("top")
    bar.ax.xaxis.set_label_position("top")


def _plot_fronts(axes: Axes, records: Sequence[Record], styles: dict, edges: list[float]) -> None:
    """Heads kept against sparsity: a curve for each method and band; other runs are faint."""
    for record in records:
        if (band := band_of(record, edges)) is not None:
            style = {"marker": styles[record["method"]][0], "color": _band_colour(edges, band)}
            place = ([record["heads_kept"]], [record["total_sparsity"]])
            axes.plot(*place, **style, alpha=0.25, markersize=4, markeredgewidth=0)
    fronts = band_fronts(records, edges)
    for (method, band), front in fronts.items():
        marker, line = styles[method]
        style = {"marker": marker, "linestyle": line, "color": _band_colour(edges, band)}
        axes.plot(
            *(_column(front, "heads_kept"), _column(front, "total_sparsity")),
            **{**style, "markersize": _marker_size(marker, 6.5), "markeredgecolor": "black"},
            **{"markeredgewidth": 0.6, "linewidth": 1.8},
        )
    bands = sorted({band for _, band in fronts}, reverse=True)
    if bands:
        axes.legend(
            [Line2D([], [], color=_band_colour(edges, band), linewidth=4) for band in bands],
            [band_text(edges, band) for band in bands],
            **{"title": "BLEU (validation)", "title_fontsize": _small(), "fontsize": _small()},
            **{"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2, "frameon": False},
            **{"handlelength": 1.0, "columnspacing": 1.0, "labelspacing": 0.25},
        )
    axes.set_ylabel("sparsity")


def _small() -> float:
    """Font size of legends."""
    return 0.95 * plt.rcParams["font.size"]


def _finish(axes: Axes, records: Sequence[Record]) -> None:
    axes.set(xlabel="heads kept", xlim=(-3, max(_column(records, "heads_total")) + 3))
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
        records: as :func:`neuroprune_experiments.records.read_frontier` returns them.
        edges: of the BLEU bands; empty: chosen here.

    Returns:
        By what a half shows, what draws it.
    """
    styles, bands = method_styles(records), band_edges(records, edges)

    def draw(plot: Callable[[Figure, Axes], None]) -> Callable[[Figure], None]:
        def draw_on(figure: Figure) -> None:
            axes = figure.subplots()
            plot(figure, axes)
            _finish(axes, records)
            _method_legend(figure, styles, 2)

        return draw_on

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
        records, edges: as for :func:`frontier_panels`.
        stem: path of the picture without its suffix.

    Returns:
        The paths of the PNG and the SVG.
    """
    styles = method_styles(records)
    size = (WIDTH, 3.5 + 0.25 * -(-len(styles) // 4))
    with plt.rc_context({"font.size": FONT_SIZE}):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=size, width_ratios=(1.1, 1), layout="constrained"
        )
        _plot_bleu(figure, left, records, styles)
        _plot_fronts(right, records, styles, band_edges(records, edges))
        for axes in (left, right):
            _finish(axes, records)
        _method_legend(figure, styles, 4)
        return save_figure(figure, stem)


def write_points(records: Sequence[Record], path: Path, edges: Sequence[float] = ()) -> Path:
    """Write what the picture shows as CSV, one line a run; returns ``path``."""
    edges = band_edges(records, edges)
    on_front = {id(record) for front in band_fronts(records, edges).values() for record in front}
    columns = "method seed heads_kept heads_total bleu valid_bleu total_sparsity attn_sparsity"
    columns = f"{columns} mlp_sparsity train_seconds".split()
    rows = [[*columns, "settings", "valid_bleu_band", "on_front_of_band"]]
    for record in records:
        band = band_of(record, edges)
        text = "" if band is None else band_text(edges, band, "-")
        cells = [record.get(column, "") for column in columns]
        rows.append([*cells, settings_text(record), text, int(id(record) in on_front)])
    return write_csv(path, rows)
