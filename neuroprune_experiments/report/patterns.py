"""Sparsity patterns: the paper's Figures 1, 8, 9 and 10."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from neuroprune_experiments.figures import short_module_name
from neuroprune_experiments.report.facts import (
    LEVELS,
    AttentionFacts,
    MLPFacts,
    ModelFacts,
    Pattern,
)
from neuroprune_experiments.report.measures import spread_out
from neuroprune_experiments.report.panels import (
    INK,
    MUTED,
    PANEL_WIDTH,
    Picture,
    Section,
    inch_axes,
    shorten,
)

MOST_MODELS = 12
# All cells of all patterns of a page: half a byte each, so the page stays well under 10 MB.
MOST_CELLS = 6_000_000
TITLE, LABEL, GAP = 0.34, 0.2, 0.1  # inches
# A mid-tone for light and dark pages, and the opacity of the lightest cell that is not empty.
COLOUR, LIGHTEST = (31, 131, 196), 40

Tiles = list[tuple[str, tuple[Pattern, ...]]]  # label, matrices side by side; () is nothing left


def short_layer_name(name: str) -> str:
    """'decoder.layers.3' -> 'dec 3'."""
    stack, _, layer = name.split(".")[-3:]
    return f"{stack[:3]} {layer}"


def draw_pattern(axes: Axes, pattern: Pattern, x: float, y: float, w: float, h: float) -> None:
    """Draw a pattern into a rectangle: colour where weights are left, nothing where not."""
    image = np.empty((*pattern.cells.shape, 4), dtype=np.uint8)
    image[..., :3] = COLOUR
    shades = np.linspace(LIGHTEST, 255, LEVELS).round().astype(np.uint8)
    image[..., 3] = np.append(0, shades)[pattern.cells]
    box = (x, x + w, y + h, y)
    axes.imshow(image, extent=box, aspect="auto", interpolation="none")
    axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=MUTED, linewidth=0.5))


def _draw_tile(
    axes: Axes, matrices: tuple[Pattern, ...], place: tuple[float, float], scale: float
) -> None:
    """Matrices side by side, ``scale`` inches for each row and column."""
    x, y = place
    for pattern in matrices:
        height, width = (scale * size for size in pattern.shape)
        draw_pattern(axes, pattern, x, y, width, height)
        x += width + 0.02
    if not matrices:
        axes.text(x, y + 0.1, "nothing left", color=MUTED, va="center")


def _title(axes: Axes, model: ModelFacts) -> None:
    axes.text(0, 0.02, shorten(model.label), color=INK, weight="bold", va="top")


def _largest(tiles: Tiles) -> tuple[int, int]:
    """Rows and columns of the largest tile, before anything was cut."""
    rows = [pattern.full_shape[0] for _, matrices in tiles for pattern in matrices]
    columns = [sum(pattern.full_shape[1] for pattern in matrices) for _, matrices in tiles]
    return max([*rows, 1]), max([*columns, 1])


def _grid_picture(
    name: str,
    models: Sequence[ModelFacts],
    tiles_of: Callable[[ModelFacts], Tiles],
    columns: int,
) -> Picture:
    """All matrices of one kind in all layers: a panel for each model."""
    all_tiles = {model.label: tiles_of(model) for model in models}
    sizes = {label: _largest(tiles) for label, tiles in all_tiles.items()}
    slot = PANEL_WIDTH / columns
    # Inches a row or column: a matrix that was cut is smaller than its slot.
    scales = {label: (slot - GAP) / size[1] for label, size in sizes.items()}
    row_height = LABEL + max(scales[label] * size[0] for label, size in sizes.items()) + 0.06
    rows = max(-(-len(tiles) // columns) for tiles in all_tiles.values())
    height = TITLE + rows * row_height

    def draw(model: ModelFacts) -> Callable[[Figure], None]:
        def draw_on(figure: Figure) -> None:
            axes = inch_axes(figure)
            _title(axes, model)
            for place, (label, matrices) in enumerate(all_tiles[model.label]):
                x, y = slot * (place % columns), TITLE + row_height * (place // columns)
                if label:
                    axes.text(x, y, label, color=INK, va="top")
                    _draw_tile(axes, matrices, (x, y + LABEL), scales[model.label])

        return draw_on

    return Picture(name, {model.label: draw(model) for model in models}, height, layout=None)


def _attention_tiles(model: ModelFacts) -> Tiles:
    """A column for each kind of module, a row for each layer; ("", ()) fills gaps."""
    kinds = list(dict.fromkeys(module.kind for module in model.attention))
    by_place = {(module.layer, module.kind): module for module in model.attention}
    layers = sorted({layer for layer, _ in by_place})
    found: list[AttentionFacts | None] = [by_place.get((n, kind)) for n in layers for kind in kinds]
    return [(short_module_name(m.name), m.patterns) if m else ("", ()) for m in found]


def _mlp_tiles(part: str) -> Callable[[ModelFacts], Tiles]:
    def tiles(model: ModelFacts) -> Tiles:
        return [(short_layer_name(mlp.name), (mlp.patterns[part],)) for mlp in model.mlps]

    return tiles


def middle_layer(model: ModelFacts) -> tuple[AttentionFacts, MLPFacts]:
    """Self-attention and MLP of the decoder's middle layer."""
    mlps = [mlp for mlp in model.mlps if mlp.name.startswith("decoder")] or list(model.mlps)
    mlp = mlps[len(mlps) // 2]
    attention = [m for m in model.attention if m.name.startswith(f"{mlp.name}.")]
    return attention[0], mlp


def _layer_tiles(model: ModelFacts) -> Tiles:
    """Attention, MLP in and MLP out of the middle layer."""
    attention, mlp = middle_layer(model)
    return [
        (f"{short_module_name(attention.name)}: Q, K, V", attention.patterns),
        (f"{short_layer_name(mlp.name)}: MLP in", (mlp.patterns["fc1"],)),
        ("MLP out", (mlp.patterns["fc2"],)),
    ]


def _layer_places(tiles: Tiles) -> tuple[list[tuple[float, float, float]], float]:
    """Attention above, below it MLP in and MLP out side by side.

    Returns:
        For each tile its place and scale (inches a row or column), and the height of all.
    """
    attention, first, second = (_largest([tile]) for tile in tiles)
    room, gap = PANEL_WIDTH - GAP, 5 * GAP
    wide = room / attention[1]
    narrow = (room - gap) / (first[1] + second[1])
    y = TITLE + LABEL + wide * attention[0] + 0.08
    places = [(0.0, TITLE, wide), (0.0, y, narrow), (first[1] * narrow + gap, y, narrow)]
    return places, y + LABEL + narrow * max(first[0], second[0]) + 0.04


def _layer_picture(models: Sequence[ModelFacts]) -> Picture:
    """One layer of every model, large."""
    all_tiles = {model.label: _layer_tiles(model) for model in models}
    layouts = {label: _layer_places(tiles) for label, tiles in all_tiles.items()}

    def draw(model: ModelFacts) -> Callable[[Figure], None]:
        def draw_on(figure: Figure) -> None:
            axes = inch_axes(figure)
            _title(axes, model)
            axes.text(
                *(PANEL_WIDTH - GAP, 0.02, f"{model.sparsity['total_sparsity']:.0%} zeros"),
                **{"color": MUTED, "va": "top", "ha": "right"},
            )
            places = layouts[model.label][0]
            for (x, y, scale), (label, matrices) in zip(places, all_tiles[model.label]):
                axes.text(x, y, label, color=INK, va="top")
                _draw_tile(axes, matrices, (x, y + LABEL), scale)

        return draw_on

    height = max(height for _, height in layouts.values())
    panels = {model.label: draw(model) for model in models}
    return Picture("patterns", panels, height, layout=None)


def shown_models(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """The models whose patterns are drawn: as many as the page has room for."""
    most = max(1, max(map(_cells, models)))
    return spread_out(models, max(1, min(MOST_MODELS, MOST_CELLS // most)))


def _cells(model: ModelFacts) -> int:
    matrices = [pattern for module in model.attention for pattern in module.patterns]
    matrices += [pattern for mlp in model.mlps for pattern in mlp.patterns.values()]
    return sum(pattern.cells.size for pattern in matrices)


def section(models: Sequence[ModelFacts]) -> Section:
    """The page's figure on patterns."""
    shown = shown_models(models)
    left_out = len(models) - len(shown)
    text = f"{len(shown)} of {len(models)} models are drawn, spread over their sparsities."
    return Section(
        anchor="patterns",
        title="Sparsity patterns",
        answers="Figures 1, 8, 9 and 10 of the paper",
        shows="Where weights are left, in a layer in the middle of the decoder and below in all "
        "layers: the stronger a cell's colour, the larger its share of nonzero weights; a blank "
        "cell has none, and rows of Q, K and V are input dimensions, as in the paper.",
        notes=[text] if left_out else [],
        pictures=[_layer_picture(shown)],
        folded=[
            ("All attention modules: Q, K, V", _grid_picture(
                "patterns-attention", shown, _attention_tiles, 3)),
            ("All layers: MLP in (fc1)", _grid_picture(
                "patterns-mlp-in", shown, _mlp_tiles("fc1"), 6)),
            ("All layers: MLP out (fc2)", _grid_picture(
                "patterns-mlp-out", shown, _mlp_tiles("fc2"), 3)),
        ],
    )  # fmt: skip
