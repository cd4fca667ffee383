"""Which heads go, and from where: the paper's Figures 3 and 7 (right)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from neuroprune_experiments.figures import COLOURS, MARKERS, short_module_name
from neuroprune_experiments.report.facts import ModelFacts
from neuroprune_experiments.report.measures import (
    MIN_REMOVED,
    by_method,
    mean_over_models,
    module_removal,
    removal_by_position,
    removed_by_kind,
    with_removals,
)
from neuroprune_experiments.report.panels import (
    INK,
    LEGEND_ROW,
    MUTED,
    PANEL_WIDTH,
    Picture,
    Section,
    Table,
    inch_axes,
    label_heads,
    method_style,
    new_axes,
)

KINDS = {"encoder_self": "encoder", "decoder_self": "decoder self", "decoder_cross": "cross"}
ONLY = (
    f"Only runs that removed at least {MIN_REMOVED} heads, as in the paper; heads and layers are "
    "numbered from 0."
)


def runs_text(runs: Sequence[object]) -> str:
    """'1 run', '2 runs'."""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def _positions(groups: dict[str, list[ModelFacts]]) -> Callable[[Figure], None]:
    """A curve for each method: share of removals by position, mean and sd over runs."""

    def draw(figure: Figure) -> None:
        axes = new_axes(figure, xlabel="position of the head", ylabel="removed", title="Overall")
        for method, group in groups.items():
            colour, marker = method_style(method)
            mean, deviation = mean_over_models([removal_by_position(model) for model in group])
            places = np.arange(len(mean))
            axes.fill_between(
                *(places, mean - deviation, mean + deviation),
                **{"color": colour, "alpha": 0.15, "linewidth": 0},
            )
            label = f"{method} ({runs_text(group)})"
            axes.plot(places, mean, color=colour, marker=marker, label=label)
        axes.set(ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y")
        figure.legend(loc="outside lower left", ncols=1)

    return draw


CELL, LEFT, TOP, RIGHT = 0.26, 1.0, 0.55, 0.4  # inches


def _module_map(method: str, models: Sequence[ModelFacts], cell: float) -> Callable[[Figure], None]:
    """Module x head: the share of a method's runs that removed it; cells so many inches wide."""
    rates = module_removal(models)
    colour = method_style(method)[0]

    def draw(figure: Figure) -> None:
        heads = max(map(len, rates.values()))
        axes = inch_axes(figure)
        axes.text(0, 0.02, f"{method} ({runs_text(models)})", color=INK, weight="bold", va="top")
        label_heads(axes, heads, LEFT, cell, TOP - 0.04)
        for row, (name, shares) in enumerate(rates.items()):
            y = TOP + CELL * row
            label = short_module_name(name)
            axes.text(LEFT - 0.1, y + CELL / 2, label, color=INK, ha="right", va="center")
            for head, share in enumerate(shares):
                place, size = (LEFT + cell * head, y), (cell - 0.03, CELL - 0.03)
                axes.add_patch(Rectangle(place, *size, color=colour, alpha=share, linewidth=0))
                axes.add_patch(Rectangle(place, *size, fill=False, edgecolor=MUTED, linewidth=0.5))
            total = f"{shares.sum():.1f}".removesuffix(".0")
            x = LEFT + cell * heads + 0.08
            axes.text(x, y + CELL / 2, total, color=MUTED, va="center")

    return draw


def _maps(groups: dict[str, list[ModelFacts]]) -> Picture:
    """A map for each method, all of one size."""
    modules = [model.attention for group in groups.values() for model in group]
    heads = max(module.num_heads for own in modules for module in own)
    width = max(PANEL_WIDTH, LEFT + CELL * 0.8 * heads + RIGHT)
    cell = min(CELL * 1.4, (width - LEFT - RIGHT) / heads)
    panels = {
        f"Share of runs in which each head was removed, {method}": _module_map(method, group, cell)
        for method, group in groups.items()
    }
    height = TOP + CELL * max(map(len, modules)) + 0.15
    return Picture("positions-modules", panels, height, width, layout=None)


def positions_section(models: Sequence[ModelFacts]) -> Section | None:
    """The page's figure on head positions; None without runs that removed enough."""
    groups = by_method(with_removals(models))
    if not groups:
        return None
    height = 2.2 + LEGEND_ROW * len(groups)
    curves = Picture("positions", {"Removal by position": _positions(groups)}, height)
    return Section(
        anchor="positions",
        title="Which heads are removed",
        answers="Figure 3 of the paper",
        shows="How often each head of a module is removed, over all modules (mean and standard "
        "deviation over runs) and in each module (the stronger the colour, the more runs; at the "
        "right the number of heads that go on average).",
        finding=f"Removed: {'; '.join(map(_position_finding, groups, groups.values()))}.",
        notes=[ONLY],
        pictures=[curves, _maps(groups)],
        folded_table=_position_table(groups),
    )


def _mean_by_position(models: Sequence[ModelFacts]) -> np.ndarray:
    return mean_over_models([removal_by_position(model) for model in models])[0]


def _position_finding(method: str, models: Sequence[ModelFacts]) -> str:
    *others, last = _mean_by_position(models)
    rest = f", the others in {np.mean(others):.0%}" if others else ""
    return f"{method} the last head in {last:.0%} of the modules{rest}"


def _position_table(groups: dict[str, list[ModelFacts]]) -> Table:
    means = {method: _mean_by_position(group) for method, group in groups.items()}
    positions = range(max(map(len, means.values())))
    rows = [["removed at position", *map(str, positions)]]
    for method, mean in means.items():
        shares = (f"{mean[place]:.2f}" if place < len(mean) else "-" for place in positions)
        rows.append([f"{method} ({runs_text(groups[method])})", *shares])
    return Table("Numbers", rows)


def _layers(method: str, models: Sequence[ModelFacts]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        axes = new_axes(figure, xlabel="layer", ylabel="heads removed")
        axes.set_title(f"{method} ({runs_text(models)})", weight="bold")
        for number, (kind, layers) in enumerate(removed_by_kind(models).items()):
            style = {"color": COLOURS[number], "marker": MARKERS[number]}
            axes.plot(list(layers), list(layers.values()), label=KINDS[kind], **style)
        most = max(module.num_heads for model in models for module in model.attention)
        axes.set_ylim(-0.04 * most, 1.04 * most)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        figure.legend(loc="outside lower left", ncols=3, columnspacing=1.2)

    return draw


def layers_section(models: Sequence[ModelFacts]) -> Section | None:
    """The page's figure on layers; None without runs that removed enough."""
    groups = by_method(with_removals(models, positions=False))
    if not groups:
        return None
    panels = {
        f"Heads removed by layer, {method}": _layers(method, group)
        for method, group in groups.items()
    }
    return Section(
        anchor="layers",
        title="Where heads are removed",
        answers="Figure 7 (right) of the paper",
        shows="How many heads a module loses, by its kind and layer, on average over the runs of a "
        "method.",
        finding=f"Removed: {'; '.join(map(_layer_finding, groups, groups.values()))}.",
        notes=[ONLY],
        pictures=[Picture("layers", panels, 2.8)],
        folded_table=_layer_table(groups),
    )


def _layer_finding(method: str, models: Sequence[ModelFacts]) -> str:
    """The share of heads of each kind that went."""
    texts = []
    for kind, name in KINDS.items():
        modules = [m for model in models for m in model.attention if m.kind == kind]
        if modules:
            heads = sum(module.num_heads for module in modules)
            texts.append(f"{sum(m.heads_removed for m in modules) / heads:.0%} of {name} heads")
    return f"{method} {', '.join(texts)}"


def _layer_table(groups: dict[str, list[ModelFacts]]) -> Table:
    found = {method: removed_by_kind(group) for method, group in groups.items()}
    layers = sorted({n for kinds in found.values() for counts in kinds.values() for n in counts})
    rows = [["method", "module", *(f"layer {layer}" for layer in layers)]]
    for method, kinds in found.items():
        for kind, counts in kinds.items():
            cells = [f"{counts[n]:.1f}" if n in counts else "-" for n in layers]
            rows.append([method, KINDS[kind], *cells])
    return Table("Numbers", rows, text_columns=2)
