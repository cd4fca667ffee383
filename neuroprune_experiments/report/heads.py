"""Which heads went, from where, and how important they were: Figures 3 and 7, and their map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from neuroprune_experiments.figures import COLOURS, MARKERS, short_module_name
from neuroprune_experiments.report import measures, page
from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts
from neuroprune_experiments.report.page import INK, LEGEND_ROW, MUTED, Draw, Picture, Section, Table
from neuroprune_experiments.report.runs import Run

KINDS = {"encoder_self": "encoder", "decoder_self": "decoder self", "decoder_cross": "cross"}
ONLY = (
    f"Only runs that removed at least {measures.MIN_REMOVED} heads, as in the paper; heads and "
    "layers are numbered from 0."
)
MOST_MAPS = 18
CELL, LEFT, TOP, RIGHT = 0.25, 0.95, 0.56, 0.4  # inches; a cell has room for two digits

Groups = dict[str, list[ModelFacts]]  # by method
# A row of a map: module, share of colour of each head, texts in the cells, text beside them.
Row = tuple[str, Sequence[float], Sequence[str], str]


def _runs_text(runs: Sequence[object]) -> str:
    """'1 run', '2 runs'."""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def _draw_row(axes: Axes, y: float, row: Row, colour: str) -> None:
    name, shares, texts, aside = row
    centred, middle = {"va": "center", "ha": "center"}, y + CELL / 2
    axes.text(LEFT - 0.08, middle, short_module_name(name), color=INK, ha="right", va="center")
    for head, (share, text) in enumerate(zip(shares, texts)):
        place, side = (LEFT + CELL * head + 0.015, y + 0.015), CELL - 0.03
        look = {"facecolor": (colour, float(share)), "edgecolor": MUTED, "linewidth": 0.5}
        axes.add_patch(Rectangle(place, side, side, **look))
        axes.text(LEFT + CELL * (head + 0.5), middle, text, color=MUTED, **centred)
    x = LEFT + CELL * len(texts) + 0.08
    axes.text(x, middle, aside, color=MUTED, va="center")


def _map(title: str, subtitle: str, rows: Sequence[Row], colour: str) -> Draw:
    """A map of heads: a row for each module, a cell for each head."""

    def draw(figure: Figure) -> None:
        axes = page.inch_axes(figure, page.shorten(title, 30))
        axes.text(0, 0.22, subtitle, color=MUTED, va="top")
        for head in range(max(len(texts) for _, _, texts, _ in rows)):
            place = (LEFT + CELL * (head + 0.5), TOP - 0.03)
            axes.text(*place, str(head), color=MUTED, ha="center", va="bottom")
        for number, row in enumerate(rows):
            _draw_row(axes, TOP + CELL * number, row, colour)

    return draw


def _maps(name: str, panels: dict[str, Draw], models: Sequence[ModelFacts]) -> Picture:
    """Maps of one size, which has room for any of the models."""
    heads = max(module.num_heads for model in models for module in model.attention)
    modules = max(len(model.attention) for model in models)
    width = max(2.6, LEFT + CELL * heads + RIGHT)
    return Picture(name, panels, TOP + CELL * modules + 0.1, width, layout=None)


# Which heads are removed.


def _mean_by_position(models: Sequence[ModelFacts]) -> tuple[np.ndarray, np.ndarray]:
    return measures.mean_over([measures.removal_by_position(model) for model in models])


def _positions(groups: Groups) -> Draw:
    """A curve for each method: share of removals by position, mean and sd over runs."""

    def draw(figure: Figure) -> None:
        labels = {"xlabel": "position of the head", "ylabel": "removed", "title": "Overall"}
        axes = page.new_axes(figure, "y", ylim=(0, 1), **labels)
        for method, group in groups.items():
            style, (mean, deviation) = page.method_style(method), _mean_by_position(group)
            area = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(range(len(mean)), mean - deviation, mean + deviation, **area)
            axes.plot(mean, **style, label=f"{method} ({_runs_text(group)})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        page.legend(figure)

    return draw


def _module_rows(models: Sequence[ModelFacts]) -> list[Row]:
    """The share of a method's runs that removed each head, and how many went on average."""
    return [
        (name, shares, [""] * len(shares), f"{shares.sum():.1f}".removesuffix(".0"))
        for name, shares in measures.module_removal(models).items()
    ]


def _position_finding(method: str, models: Sequence[ModelFacts]) -> str:
    *others, last = _mean_by_position(models)[0]
    rest = f", the others in {np.mean(others):.0%}" if others else ""
    return f"{method} the last head in {last:.0%} of the modules{rest}"


def positions_section(models: Sequence[ModelFacts]) -> Section | None:
    """The page's figure on head positions; None without runs that removed enough."""
    groups = measures.by_method(models := measures.with_removals(models))
    if not groups:
        return None
    height = 2.2 + LEGEND_ROW * len(groups)
    maps = {
        f"Share of runs in which each head was removed, {method}": _map(
            method, _runs_text(own), _module_rows(own), page.method_style(method)["color"]
        )
        for method, own in groups.items()
    }
    means = {f"{m} ({_runs_text(own)})": _mean_by_position(own)[0] for m, own in groups.items()}
    places = range(max(map(len, means.values())))
    rows = [["removed at position", *map(str, places)]]
    for method, mean in means.items():
        rows.append([method, *(f"{mean[i]:.2f}" if i < len(mean) else "-" for i in places)])
    return Section(
        "positions",
        finding=f"Removed: {'; '.join(map(_position_finding, groups, groups.values()))}.",
        notes=[ONLY],
        pictures=[
            Picture("positions", {"Removal by position": _positions(groups)}, height),
            _maps("positions-modules", maps, models),
        ],
        folded_table=Table("Numbers", rows),
    )


# Where heads are removed.


def _layers(method: str, models: Sequence[ModelFacts]) -> Draw:
    def draw(figure: Figure) -> None:
        axes = page.new_axes(figure, "y", xlabel="layer", ylabel="heads removed")
        axes.set_title(f"{method} ({_runs_text(models)})", weight="bold")
        for number, (kind, layers) in enumerate(measures.removed_by_kind(models).items()):
            style = {"color": COLOURS[number], "marker": MARKERS[number]}
            axes.plot(layers.keys(), layers.values(), label=KINDS.get(kind, kind), **style)
        most = max(module.num_heads for model in models for module in model.attention)
        axes.set_ylim(-0.04 * most, 1.04 * most)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        page.legend(figure, 3)

    return draw


def _layer_finding(method: str, models: Sequence[ModelFacts]) -> str:
    """The share of heads of each kind that went."""
    texts = []
    for kind, name in KINDS.items():
        modules = [m for model in models for m in model.attention if m.kind == kind]
        if modules:
            removed = sum(m.heads_removed for m in modules) / sum(m.num_heads for m in modules)
            texts.append(f"{removed:.0%} of {name} heads")
    return f"{method} {', '.join(texts)}"


def layers_section(models: Sequence[ModelFacts]) -> Section | None:
    """The page's figure on layers; None without runs that removed enough."""
    groups = measures.by_method(measures.with_removals(models))
    if not groups:
        return None
    found = {method: measures.removed_by_kind(group) for method, group in groups.items()}
    layers = sorted({n for kinds in found.values() for counts in kinds.values() for n in counts})
    rows = [["method", "module", *(f"layer {layer}" for layer in layers)]]
    for method, kinds in found.items():
        for kind, counts in kinds.items():
            cells = (f"{counts[n]:.1f}" if n in counts else "-" for n in layers)
            rows.append([method, KINDS.get(kind, kind), *cells])
    panels = {f"Heads removed by layer, {m}": _layers(m, group) for m, group in groups.items()}
    return Section(
        "layers",
        finding=f"Removed: {'; '.join(map(_layer_finding, groups, groups.values()))}.",
        notes=[ONLY],
        pictures=[Picture("layers", panels, 2.8)],
        folded_table=Table("Numbers", rows, text_columns=2),
    )


# How important they were.


def _importance(groups: Groups, values: dict[str, float], title: str, neutral: float) -> Draw:
    """A point for each run; ``neutral`` is where importance plays no role."""

    def draw(figure: Figure) -> None:
        axes = page.new_axes(figure, "y", xlabel="heads removed", title=title)
        axes.axhline(neutral, color=MUTED, linewidth=1.2, linestyle="--")
        for method, group in groups.items():
            own = [values[model.label] for model in group]
            label = f"{method}: mean {np.mean(own):.3f} ({_runs_text(group)})"
            axes.plot([m.heads_removed for m in group], own, **page.points(method), label=label)
        axes.margins(0.1, 0.15)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        page.legend(figure)

    return draw


def importance_section(
    models: Sequence[ModelFacts], before: Sequence[AttentionFacts]
) -> Section | None:
    """The page's figure on the importance of removed heads; None where there is none.

    Args:
        models: all models.
        before: the modules of the model that pruning started from.
    """
    models = measures.with_removals(models) if before else []
    ratios = {model.label: measures.relative_importance(model, before) for model in models}
    above = {model.label: measures.removed_above_kept(model, before) for model in models}
    groups = measures.by_method(model for model in models if ratios[model.label] is not None)
    if not groups:
        return None
    rows = [["model", "method", "heads removed", "removed / kept", "removed above kept"]]
    for model in (model for group in groups.values() for model in group):
        numbers = [f"{ratios[model.label]:.3f}", f"{above[model.label]:.3f}"]
        rows.append([model.label, model.method, str(model.heads_removed), *numbers])
    panels = {
        "Relative importance": _importance(groups, ratios, "Importance, removed / kept heads", 1),
        "Share of pairs with the removed head above": _importance(
            groups, above, "Pairs with the removed head above", 0.5
        ),
    }

    def finding(method: str, group: Sequence[ModelFacts]) -> str:
        ratio, share = (np.mean([of[model.label] for model in group]) for of in (ratios, above))
        return f"{method} ratio {ratio:.3f}, above in {share:.0%}"

    return Section(
        "importance",
        finding=f"Removed heads: {'; '.join(map(finding, groups, groups.values()))}.",
        notes=[ONLY],
        pictures=[Picture("importance", panels, 2.2 + LEGEND_ROW * len(groups))],
        folded_table=Table("Numbers", rows, text_columns=2),
    )


# The map of heads.


def _replacements(module: AttentionFacts, run: Run | None) -> list[str]:
    """What stands in the cells of a module: for a removed head the number of the one it went to.

    A dash stands for a head that was dropped without one; nothing where no log tells.
    """
    replaced = run.replaced.get(module.name, {}) if run else {}
    texts = {head: "–" if into is None else str(into) for head, (_, into) in replaced.items()}
    return ["" if kept else texts.get(head, "") for head, kept in enumerate(module.head_mask)]


def heads_section(models: Sequence[ModelFacts], runs: dict[str, Run]) -> Section:
    """The page's map of heads; ``runs`` are by the model's label, where there is one."""
    shown = measures.spread_out([m for m in models if m.heads_removed], MOST_MAPS)
    shown = shown or measures.spread_out(models, 1)
    panels = {}
    for model in shown:
        rows: list[Row] = []
        for module in model.attention:
            texts = _replacements(module, runs.get(model.label))
            rows.append((module.name, module.head_mask, texts, ""))
        subtitle = f"{model.heads_kept} of {model.heads_total} heads"
        panels[f"Heads of {model.label}"] = _map(model.label, subtitle, rows, COLOURS[0])
    return Section(
        "heads",
        pictures=[_maps("heads", panels, shown)],
    )
