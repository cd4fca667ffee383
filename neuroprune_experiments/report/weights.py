"""Where weights are left (Figures 1, 8, 9 and 10), and the degrees of neurons (Figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from neuroprune_experiments.figures import short_module_name
from neuroprune_experiments.report import measures, page
from neuroprune_experiments.report.facts import LEVELS, ModelFacts, Pattern
from neuroprune_experiments.report.measures import degree_spread, degrees, part_sparsity, spread_out
from neuroprune_experiments.report.page import INK, LEGEND_ROW, MUTED, Draw, Picture, Section, Table

MOST_MODELS = 12
# All cells of all patterns of a page: half a byte each, so the page stays well under 10 MB.
MOST_CELLS = 6_000_000
TITLE, LABEL, GAP = 0.34, 0.2, 0.1  # inches
# A mid-tone for light and dark pages, and the opacity of the lightest cell that is not empty.
COLOUR, LIGHTEST = (31, 131, 196), 40

PARTS = {"fc1": "MLP in (fc1)", "fc2": "MLP out (fc2)"}
MOST_RIDGES, BINS = 16, 48
# A ridge's row is 1 high: the name above, the ridge below.
RIDGE_HEIGHT, RIDGE_INCHES = 0.55, 0.42

Tile = tuple[str, tuple[Pattern, ...]]  # label, matrices side by side; () is nothing left
Place = tuple[float, float, float, Tile]  # x, y (inches), inches for a row or column


def _size(tiles: Sequence[Tile]) -> tuple[int, int]:
    """Rows and columns of the largest tile, before anything was cut."""
    rows = [pattern.full_shape[0] for _, matrices in tiles for pattern in matrices]
    columns = [sum(pattern.full_shape[1] for pattern in matrices) for _, matrices in tiles]
    return max([*rows, 1]), max([*columns, 1])


def _draw_tile(axes: Axes, x: float, y: float, scale: float, tile: Tile) -> None:
    """A label and below it the matrices: colour where weights are left, nothing where not."""
    label, matrices = tile
    axes.text(x, y, label, color=INK, va="top")
    y += LABEL
    alphas = np.append(0, np.linspace(LIGHTEST, 255, LEVELS).round()).astype(np.uint8)
    for pattern in matrices:
        height, width = (scale * size for size in pattern.shape)
        image = np.dstack([np.broadcast_to(np.uint8(COLOUR), (*pattern.cells.shape, 3)),
                           alphas[pattern.cells]])  # fmt: skip
        box = (x, x + width, y + height, y)
        axes.imshow(image, extent=box, aspect="auto", interpolation="none")
        frame = {"fill": False, "edgecolor": MUTED, "linewidth": 0.5}
        axes.add_patch(Rectangle((x, y), width, height, **frame))
        x += width + 0.02
    if label and not matrices:
        axes.text(x, y + 0.1, "nothing left", color=MUTED, va="center")


def _picture(
    name: str, models: Sequence[ModelFacts], places_of: Callable[[ModelFacts], list[Place]]
) -> Picture:
    """A panel of tiles for each model."""

    def draw(model: ModelFacts, places: list[Place]) -> Draw:
        def draw_on(figure: Figure) -> None:
            axes = page.inch_axes(figure, page.shorten(model.label, 30))
            zeros = f"{model.sparsity['total_sparsity']:.0%} zeros"
            axes.text(page.PANEL_WIDTH - GAP, 0.02, zeros, color=MUTED, va="top", ha="right")
            for place in places:
                _draw_tile(axes, *place)

        return draw_on

    places = {model.label: places_of(model) for model in models}
    bottom = max(
        y + LABEL + scale * _size([tile])[0] + 0.06
        for own in places.values()
        for _, y, scale, tile in own
    )
    panels = {model.label: draw(model, places[model.label]) for model in models}
    return Picture(name, panels, bottom, layout=None)


def _grid(tiles: Sequence[Tile], columns: int) -> list[Place]:
    """Tiles in rows; ("", ()) is a gap. A matrix that was cut is smaller than its place."""
    slot, (rows, width) = page.PANEL_WIDTH / columns, _size(tiles)
    scale = (slot - GAP) / width
    row_height = LABEL + scale * rows + 0.06
    return [
        (slot * (n % columns), TITLE + row_height * (n // columns), scale, tile)
        for n, tile in enumerate(tiles)
    ]


def _attention_places(model: ModelFacts) -> list[Place]:
    """A column for each kind of module, a row for each layer."""
    kinds = list(dict.fromkeys(module.kind for module in model.attention))
    tiles = {(m.layer, m.kind): (short_module_name(m.name), m.patterns) for m in model.attention}
    layers = sorted({layer for layer, _ in tiles})
    return _grid([tiles.get((n, kind), ("", ())) for n in layers for kind in kinds], 3)


def _mlp_places(part: str, columns: int) -> Callable[[ModelFacts], list[Place]]:
    def places(model: ModelFacts) -> list[Place]:
        tiles = [(short_layer_name(mlp.name), (mlp.patterns[part],)) for mlp in model.mlps]
        return _grid(tiles, columns)

    return places


def short_layer_name(name: str) -> str:
    """'decoder.layers.3' -> 'dec 3'."""
    stack, _, layer = name.split(".")[-3:]
    return f"{stack[:3]} {layer}"


def _layer_places(model: ModelFacts) -> list[Place]:
    """The decoder's middle layer: self-attention, below it MLP in and MLP out side by side."""
    mlps = [mlp for mlp in model.mlps if mlp.name.startswith("decoder")] or list(model.mlps)
    mlp = mlps[len(mlps) // 2]
    module = next(m for m in model.attention if m.name.startswith(f"{mlp.name}."))
    attention = (f"{short_module_name(module.name)}: Q, K, V", module.patterns)
    first = (f"{short_layer_name(mlp.name)}: MLP in", (mlp.patterns["fc1"],))
    second = ("MLP out", (mlp.patterns["fc2"],))
    room, gap, (rows, columns) = page.PANEL_WIDTH - GAP, 5 * GAP, _size([attention])
    widths = _size([first])[1], _size([second])[1]
    wide, narrow = room / columns, (room - gap) / sum(widths)
    y = TITLE + LABEL + wide * rows + 0.08
    below = [(0.0, y, narrow, first), (widths[0] * narrow + gap, y, narrow, second)]
    return [(0.0, TITLE, wide, attention), *below]


def shown_models(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """The models whose patterns are drawn: as many as the page has room for."""

    def cells(model: ModelFacts) -> int:
        own = [pattern for module in model.attention for pattern in module.patterns]
        own += [pattern for mlp in model.mlps for pattern in mlp.patterns.values()]
        return sum(pattern.cells.size for pattern in own)

    return spread_out(models, max(1, min(MOST_MODELS, MOST_CELLS // max(1, *map(cells, models)))))


def patterns_section(models: Sequence[ModelFacts]) -> Section:
    """The page's figure on patterns."""
    shown = shown_models(models)
    text = f"{len(shown)} of {len(models)} models are drawn, spread over their sparsities."
    folded = {
        "All attention modules: Q, K, V": ("patterns-attention", _attention_places),
        "All layers: MLP in (fc1)": ("patterns-mlp-in", _mlp_places("fc1", 6)),
        "All layers: MLP out (fc2)": ("patterns-mlp-out", _mlp_places("fc2", 3)),
    }
    return Section(
        "patterns",
        notes=[text] if len(shown) < len(models) else [],
        pictures=[_picture("patterns", shown, _layer_places)],
        folded=[(title, _picture(name, shown, of)) for title, (name, of) in folded.items()],
    )


# Degrees.


def histogram(values: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of degrees (rows,), 0 to ``columns``, in bins of whole numbers: edges, counts."""
    width = -(-(columns + 1) // BINS)
    edges = np.arange(0, columns + 1 + width, width)
    return edges, np.histogram(values, edges)[0]


def _ridges(models: Sequence[ModelFacts], part: str) -> Draw:
    """The degrees of each model, the least sparse first."""
    models = sorted(models, key=lambda model: part_sparsity(model, part))
    columns = max(mlp.patterns[part].full_shape[1] for model in models for mlp in model.mlps)
    histograms = [histogram(degrees(model, part), columns) for model in models]
    most = max(counts.max() for _, counts in histograms)

    def draw(figure: Figure) -> None:
        labels = {"xlabel": "nonzero weights of a neuron", "title": PARTS[part], "yticks": []}
        axes = page.new_axes(figure, "x", ylim=(len(models) + 0.02, 0.1), **labels)
        axes.grid(False)
        for row, (model, (edges, counts)) in enumerate(zip(models, histograms), start=1):
            heights = row - RIDGE_HEIGHT * np.log1p(np.append(counts, counts[-1])) / np.log1p(most)
            colour = page.method_style(model.method)["color"]
            style = {"color": colour, "alpha": 0.75, "linewidth": 0, "step": "post"}
            axes.fill_between(edges, row, heights, **style)
            axes.axhline(row, color=MUTED, linewidth=0.6)
            axes.text(0, row - 0.58, page.shorten(model.label, 30), va="bottom", color=INK)
            spread = f"sd {degree_spread(model, part):.1f}"
            axes.text(edges[-1], row - 0.58, spread, va="bottom", ha="right", color=MUTED)
        axes.margins(x=0.01)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return draw


def _spreads(models: Sequence[ModelFacts], part: str) -> Draw:
    """Spread against sparsity: models, their layers, and what chance would give."""

    def draw(figure: Figure) -> None:
        labels = {"xlabel": "sparsity", "ylabel": "sd of degrees", "title": PARTS[part]}
        axes = page.new_axes(figure, **labels)
        share = np.linspace(0, 1, 101)
        shapes = sorted({mlp.patterns[part].full_shape for m in models for mlp in m.mlps})
        for number, (rows, columns) in enumerate(shapes[:3]):
            counts = np.round((1 - share) * rows * columns).astype(int)
            curve = [measures.scattered_variance(rows, columns, int(n)) ** 0.5 for n in counts]
            style = {"color": INK, "linestyle": (0, (2, 2)), "linewidth": 1.2}
            axes.plot(share, curve, **style, label=None if number else "scattered zeros")
        for method, group in measures.by_method(models).items():
            layers = [(m.degrees[part], m.patterns[part]) for model in group for m in model.mlps]
            x = [1 - own.mean() / pattern.full_shape[1] for own, pattern in layers]
            faint = {"markersize": 4, "alpha": 0.45, "linestyle": "", "markeredgewidth": 0}
            axes.plot(x, [own.std() for own, _ in layers], **page.method_style(method), **faint)
            x, y = zip(*((part_sparsity(m, part), degree_spread(m, part)) for m in group))
            axes.plot(x, y, **page.points(method), label=method)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.5, None))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        page.legend(figure, 2)

    return draw


def _degree_rows(models: Sequence[ModelFacts]) -> list[list[str]]:
    rows = [["model", "part", "sparsity", "mean degree", "sd", "sd if scattered", "ratio"]]
    for model in models:
        for part in PARTS:
            spread, scattered = degree_spread(model, part), measures.scattered_spread(model, part)
            numbers = (f"{n:.2f}" for n in (degrees(model, part).mean(), spread, scattered))
            ratio = f"{spread / scattered:.1f}" if scattered else "-"
            sparsity = f"{part_sparsity(model, part):.3f}"
            rows.append([model.label, part, sparsity, *numbers, ratio])
    return rows


def _degree_finding(models: Sequence[ModelFacts]) -> str:
    """The densest model, and the one whose spread is largest, in words."""
    texts = []
    for part in PARTS:
        dense = min(models, key=lambda model: part_sparsity(model, part))
        widest = max(models, key=lambda model: degree_spread(model, part))
        if dense is not widest:
            texts.append(
                f"{part}: from {degree_spread(dense, part):.2f} at "
                f"{part_sparsity(dense, part):.0%} zeros ({dense.label}) to "
                f"{degree_spread(widest, part):.1f} at {part_sparsity(widest, part):.0%} "
                f"({widest.label}), where scattered zeros would give "
                f"{measures.scattered_spread(widest, part):.1f}"
            )
    return f"Standard deviation of degrees: {'; '.join(texts)}." if texts else ""


def degrees_section(models: Sequence[ModelFacts]) -> Section:
    """The page's figure on degrees."""
    shown = spread_out(models, MOST_RIDGES)
    ridges = {f"Degrees, {title}": _ridges(shown, part) for part, title in PARTS.items()}
    spreads = {f"Spread of degrees, {title}": _spreads(models, p) for p, title in PARTS.items()}
    legend_rows = len(measures.by_method(models)) // 2 + 1  # with the scattered zeros, in pairs
    return Section(
        "degrees",
        finding=_degree_finding(models),
        pictures=[
            Picture("degrees", ridges, RIDGE_INCHES * len(shown) + 0.75),
            Picture("degree-spread", spreads, 2.4 + LEGEND_ROW * legend_rows),
        ],
        folded_table=Table("Numbers", _degree_rows(models), text_columns=2),
    )
