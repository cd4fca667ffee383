"""How important the removed heads were: the paper's Figure 7 (left)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts
from neuroprune_experiments.report.measures import (
    relative_importance,
    removed_above_kept,
    with_removals,
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
)
from neuroprune_experiments.report.removal import ONLY, runs_text

Scores = dict[str, list[tuple[ModelFacts, float]]]  # by method


def _scores(
    models: Sequence[ModelFacts],
    before: Sequence[AttentionFacts],
    measure: Callable[[ModelFacts, Sequence[AttentionFacts]], float | None],
) -> Scores:
    """A measure of all models that have one, by method."""
    found: Scores = {}
    for model in with_removals(models):
        score = measure(model, before)
        if score is not None:
            found.setdefault(model.method, []).append((model, score))
    return found


def _mean(pairs: Sequence[tuple[ModelFacts, float]]) -> float:
    return float(np.mean([score for _, score in pairs]))


def _importance(scores: Scores, title: str, neutral: float) -> Callable[[Figure], None]:
    """A point for each run; ``neutral`` is where importance plays no role."""

    def draw(figure: Figure) -> None:
        axes = new_axes(figure, xlabel="heads removed", title=title)
        axes.axhline(neutral, color=MUTED, linewidth=1.2, linestyle="--")
        for method, pairs in scores.items():
            colour, marker = method_style(method)
            axes.plot(
                [model.heads_removed for model, _ in pairs],
                [score for _, score in pairs],
                **{"color": colour, "marker": marker, "markersize": 7, "linestyle": ""},
                **{"markeredgecolor": INK, "markeredgewidth": 0.6},
                label=f"{method}: mean {_mean(pairs):.3f} ({runs_text(pairs)})",
            )
        axes.margins(0.1, 0.15)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside lower left", ncols=1)

    return draw


def section(models: Sequence[ModelFacts], before: Sequence[AttentionFacts]) -> Section | None:
    """The page's figure on the importance of removed heads; None where there is none.

    Args:
        models: all models.
        before: the modules of the model that pruning started from.
    """
    ratios = _scores(models, before, relative_importance)
    above = _scores(models, before, removed_above_kept)
    if not ratios:
        return None
    rows = [["model", "method", "heads removed", "removed / kept", "removed above kept"]]
    for method, pairs in ratios.items():
        shares = dict((model.label, share) for model, share in above[method])
        for model, ratio in pairs:
            numbers = [str(model.heads_removed), f"{ratio:.3f}", f"{shares[model.label]:.3f}"]
            rows.append([model.label, method, *numbers])
    panels = {
        "Relative importance": _importance(ratios, "Importance, removed / kept heads", 1),
        "Share of pairs with the removed head above": _importance(
            above, "Pairs with the removed head above", 0.5
        ),
    }
    texts = (
        f"{method} ratio {_mean(ratios[method]):.3f}, above in {_mean(above[method]):.0%}"
        for method in ratios
    )
    return Section(
        anchor="importance",
        title="Importance of removed heads",
        answers="Figure 7 (left) of the paper",
        shows="How important removed heads were beside those that stayed in the same module, as "
        "the mean ratio and as the share of pairs in which the removed one was more important "
        "(dashed: no difference); importance is the sum of the absolute output weights that "
        "emerge from a head, in the model that pruning started from.",
        finding=f"Removed heads: {'; '.join(texts)}.",
        notes=[ONLY],
        pictures=[Picture("importance", panels, 2.2 + LEGEND_ROW * len(ratios))],
        folded_table=Table("Numbers", rows, text_columns=2),
    )
