"""The map of heads: which are left, and who replaced whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from neuroprune_experiments.figures import COLOURS, short_module_name
from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts
from neuroprune_experiments.report.measures import spread_out
from neuroprune_experiments.report.panels import (
    INK,
    MUTED,
    Picture,
    Section,
    inch_axes,
    label_heads,
    shorten,
)
from neuroprune_experiments.report.runs import Run

MOST_MODELS = 18
LEFT, TOP, ROW, CELL = 0.95, 0.56, 0.25, 0.23  # inches; a cell has room for two digits
NARROW = 2.6  # of a panel, where that is wide enough

Replaced = dict[int, tuple[int, "int | None"]]  # head -> epoch, the head that replaced it


def replacement_text(head: int, replaced: Replaced) -> str:
    """What stands in the cell of a removed head: the number of the head it was merged into.

    A dash stands for a head that was dropped without one; nothing where no log tells.
    """
    if head not in replaced:
        return ""
    dominator = replaced[head][1]
    return "–" if dominator is None else str(dominator)


def _cell(axes: Axes, x: float, y: float, size: float, kept: bool) -> None:
    style = {"color": COLOURS[0]} if kept else {"facecolor": "none", "edgecolor": MUTED}
    box = FancyBboxPatch(
        (x + 0.03, y + 0.03),
        *(size - 0.06, ROW - 0.06),
        **{"boxstyle": "round,pad=0,rounding_size=0.04", "linewidth": 0.5, **style},
    )
    axes.add_patch(box)


def _draw_module(
    axes: Axes, module: AttentionFacts, replaced: Replaced, y: float, size: float
) -> None:
    middle = y + ROW / 2
    text = {"va": "center", "color": INK}
    axes.text(LEFT - 0.08, middle, short_module_name(module.name), **{**text, "ha": "right"})
    if module.head_mask is None:
        count = f"{module.heads_kept} of {module.num_heads} left"
        axes.text(LEFT + 0.04, middle, count, va="center", color=MUTED)
        return
    for head, kept in enumerate(module.head_mask):
        x = LEFT + size * head
        _cell(axes, x, y, size, kept)
        if not kept:
            label = replacement_text(head, replaced)
            axes.text(x + size / 2, middle, label, **{**text, "ha": "center", "color": MUTED})


def _panel(
    model: ModelFacts, run: Run | None, width: float, height: float, size: float
) -> Callable[[Figure], None]:
    replaced = run.replaced if run else {}

    def draw(figure: Figure) -> None:
        axes = inch_axes(figure)
        axes.text(0, 0.02, shorten(model.label, 30), color=INK, weight="bold", va="top")
        kept = f"{model.heads_kept} of {model.heads_total} heads"
        axes.text(0, 0.22, kept, color=MUTED, va="top")
        heads = max(module.num_heads for module in model.attention)
        label_heads(axes, heads, LEFT, size, TOP - 0.02)
        for row, module in enumerate(model.attention):
            _draw_module(axes, module, replaced.get(module.name, {}), TOP + ROW * row, size)

    return draw


def section(models: Sequence[ModelFacts], runs: dict[str, Run]) -> Section:
    """The page's map of heads.

    Args:
        models: all models.
        runs: by the model's label, where there is one.
    """
    shown = spread_out([model for model in models if model.heads_removed], MOST_MODELS)
    shown = shown or spread_out(models, 1)
    heads = max(module.num_heads for model in shown for module in model.attention)
    width = max(NARROW, LEFT + CELL * heads)
    size = min(0.28, (width - LEFT) / heads)
    height = TOP + ROW * max(len(model.attention) for model in shown) + 0.08
    panels = {
        f"Heads of {model.label}": _panel(model, runs.get(model.label), width, height, size)
        for model in shown
    }
    return Section(
        anchor="heads",
        title="Map of heads",
        answers="Algorithms 2 and 3 of the paper, head by head",
        shows="The heads of every module, numbered from 0: a filled cell is a head that is left; "
        "in an empty one stands the number of the head that it was merged into, or a dash where it "
        "was dropped, as far as a run's log tells.",
        pictures=[Picture("heads", panels, height, width, layout=None)],
    )
