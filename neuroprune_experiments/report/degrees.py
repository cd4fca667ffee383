"""Degrees of the MLP's neurons: the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from neuroprune_experiments.report.facts import MLP_PARTS, ModelFacts
from neuroprune_experiments.report.measures import (
    by_method,
    degree_spread,
    degrees,
    part_sparsity,
    scattered_spread,
    scattered_variance,
    spread_out,
)
from neuroprune_experiments.report.panels import (
    INK,
    LEGEND_ROW,
    MUTED,
    Picture,
    Section,
    Table,
    method_style,
    new_axes,
    shorten,
)

MOST_MODELS = 16
BINS = 48
TITLES = {"fc1": "MLP in (fc1)", "fc2": "MLP out (fc2)"}
# A ridge's row is 1 high: the name above, the ridge below.
RIDGE_HEIGHT, RIDGE_INCHES = 0.55, 0.42


def histogram(values: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of degrees in bins of whole numbers.

    Args:
        values: (rows,), degrees from 0 to ``columns``.
        columns: the largest degree there can be.

    Returns:
        Edges (bins + 1,) and counts (bins,).
    """
    width = -(-(columns + 1) // BINS)
    edges = np.arange(0, columns + 1 + width, width)
    return edges, np.histogram(values, edges)[0]


def _ridge(axes: Axes, row: int, model: ModelFacts, part: str, columns: int, most: int) -> None:
    values = degrees(model, part)
    edges, counts = histogram(values, columns)
    heights = RIDGE_HEIGHT * np.log1p(counts) / np.log1p(most)
    colour = method_style(model.method)[0]
    axes.fill_between(
        *(edges, row + 1, row + 1 - np.append(heights, heights[-1])),
        **{"step": "post", "color": colour, "alpha": 0.75, "linewidth": 0},
    )
    axes.axhline(row + 1, color=MUTED, linewidth=0.6)
    text = {"va": "bottom", "color": INK}
    axes.text(0, row + 0.42, shorten(model.label, 30), **text)
    spread = f"sd {degree_spread(model, part):.1f}"
    axes.text(edges[-1], row + 0.42, spread, **{**text, "ha": "right", "color": MUTED})


def _distributions(models: Sequence[ModelFacts], part: str) -> Callable[[Figure], None]:
    """One ridge for each model, the least sparse first."""
    models = sorted(models, key=lambda model: part_sparsity(model, part))
    columns = max(mlp.patterns[part].full_shape[1] for model in models for mlp in model.mlps)
    most = max(histogram(degrees(model, part), columns)[1].max() for model in models)

    def draw(figure: Figure) -> None:
        axes = new_axes(figure, xlabel="nonzero weights of a neuron", title=TITLES[part])
        for row, model in enumerate(models):
            _ridge(axes, row, model, part, columns, most)
        axes.set(ylim=(len(models) + 0.02, 0.1), yticks=[])
        axes.margins(x=0.01)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return draw


def _spreads(models: Sequence[ModelFacts], part: str) -> Callable[[Figure], None]:
    """Spread against sparsity: models, their layers, and what chance would give."""

    def draw(figure: Figure) -> None:
        axes = new_axes(figure, xlabel="sparsity", title=TITLES[part])
        axes.set_ylabel("sd of degrees")
        shapes = sorted({mlp.patterns[part].full_shape for m in models for mlp in m.mlps})
        share = np.linspace(0, 1, 101)
        for number, (rows, columns) in enumerate(shapes[:3]):
            counts = np.round((1 - share) * rows * columns).astype(int)
            curve = [scattered_variance(rows, columns, int(count)) ** 0.5 for count in counts]
            label = "scattered zeros" if number == 0 else None
            axes.plot(share, curve, color=INK, linestyle=(0, (2, 2)), linewidth=1.2, label=label)
        for method, group in by_method(models).items():
            colour, marker = method_style(method)
            layers = [mlp for model in group for mlp in model.mlps]
            axes.plot(
                [1 - mlp.degrees[part].mean() / mlp.patterns[part].full_shape[1] for mlp in layers],
                [mlp.degrees[part].std() for mlp in layers],
                **{"color": colour, "marker": marker, "markersize": 4, "alpha": 0.45},
                **{"linestyle": "", "markeredgewidth": 0},
            )
            axes.plot(
                [part_sparsity(model, part) for model in group],
                [degree_spread(model, part) for model in group],
                **{"color": colour, "marker": marker, "markersize": 7, "linestyle": ""},
                **{"markeredgecolor": INK, "markeredgewidth": 0.6, "label": method},
            )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.5, None))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid()
        figure.legend(loc="outside lower left", ncols=2, columnspacing=1.2, handlelength=1.5)

    return draw


def _numbers(models: Sequence[ModelFacts]) -> Table:
    rows = [["model", "part", "sparsity", "mean degree", "sd", "sd if scattered", "ratio"]]
    for model in models:
        for part in MLP_PARTS:
            spread, scattered = degree_spread(model, part), scattered_spread(model, part)
            ratio = f"{spread / scattered:.1f}" if scattered else "-"
            numbers = [degrees(model, part).mean(), spread, scattered]
            sparsity = f"{part_sparsity(model, part):.3f}"
            rows.append([model.label, part, sparsity, *(f"{n:.2f}" for n in numbers), ratio])
    return Table("Numbers", rows, text_columns=2)


def _finding(models: Sequence[ModelFacts]) -> str:
    """The densest model, and the one whose spread is largest, in words."""
    texts = []
    for part in MLP_PARTS:
        dense = min(models, key=lambda model: part_sparsity(model, part))
        widest = max(models, key=lambda model: degree_spread(model, part))
        if dense is widest:
            continue
        texts.append(
            f"{part}: from {degree_spread(dense, part):.2f} at {part_sparsity(dense, part):.0%} "
            f"zeros ({dense.label}) to {degree_spread(widest, part):.1f} at "
            f"{part_sparsity(widest, part):.0%} ({widest.label}), where scattered zeros would "
            f"give {scattered_spread(widest, part):.1f}"
        )
    return f"Standard deviation of degrees: {'; '.join(texts)}." if texts else ""


def section(models: Sequence[ModelFacts]) -> Section:
    """The page's figure on degrees."""
    shown = spread_out(models, MOST_MODELS)
    ridges = {f"Degrees, {TITLES[part]}": _distributions(shown, part) for part in MLP_PARTS}
    spreads = {f"Spread of degrees, {TITLES[part]}": _spreads(models, part) for part in MLP_PARTS}
    legend_rows = len(by_method(models)) // 2 + 1  # the methods and the scattered zeros in pairs
    return Section(
        anchor="degrees",
        title="Degrees of neurons",
        answers="Figure 2 of the paper",
        shows="How many nonzero weights the neurons of the MLPs have (rows of fc1 and fc2; heights "
        "on a log scale), and how far these degrees spread within a layer (standard deviation): "
        "large symbols are models, small ones their layers, and above the dashed line, which is "
        "for zeros scattered at random, zeros gather in some neurons, as preferential attachment "
        "would have it.",
        finding=_finding(models),
        pictures=[
            Picture("degrees", ridges, RIDGE_INCHES * len(shown) + 0.75),
            Picture("degree-spread", spreads, 2.4 + LEGEND_ROW * legend_rows),
        ],
        folded_table=_numbers(models),
    )
