"""The numbers of the paper's Figures 2, 3 and 7. Pure: facts in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts

# The paper's Figures 3 and 7 look at runs that removed at least this many heads.
MIN_REMOVED = 10


def _pooled(model: ModelFacts, part: str, variances: Iterable[float]) -> float:
    """The standard deviation of layers with these variances, each by its rows."""
    rows = [len(mlp.degrees[part]) for mlp in model.mlps]
    return float(np.sqrt(np.average([*variances], weights=rows)))


def degrees(model: ModelFacts, part: str) -> np.ndarray:
    """Nonzero entries of every row of all fc1 or fc2: (rows of all layers,), long."""
    return np.concatenate([mlp.degrees[part] for mlp in model.mlps])


def degree_spread(model: ModelFacts, part: str) -> float:
    """Figure 2: standard deviation of the degrees within a layer, in connections.

    Note:
        The variance is taken in each layer, then averaged over all rows: that one layer lost
        more than another says nothing about preferences among neurons.
    """
    return _pooled(model, part, (mlp.degrees[part].var() for mlp in model.mlps))


def scattered_variance(rows: int, columns: int, nonzeros: int) -> float:
    """Expected variance of row degrees when a matrix's nonzeros lie anywhere at random.

    A row then draws its ``columns`` places out of all without replacement, so its degree is
    hypergeometric.
    """
    places = rows * columns
    share = nonzeros / places
    return columns * share * (1 - share) * (places - columns) / max(places - 1, 1)


def scattered_spread(model: ModelFacts, part: str) -> float:
    """What :func:`degree_spread` would be if every matrix's zeros were scattered at random.

    Each matrix keeps its number of zeros, so a difference to the real spread is about which
    rows have them. This is what preferential attachment must exceed.
    """
    own = ((mlp.degrees[part], mlp.patterns[part].full_shape[1]) for mlp in model.mlps)
    return _pooled(model, part, (scattered_variance(len(d), n, int(d.sum())) for d, n in own))


def part_sparsity(model: ModelFacts, part: str) -> float:
    """Share of zeros of all fc1 or all fc2 weights."""
    places = sum(int(np.prod(mlp.patterns[part].full_shape)) for mlp in model.mlps)
    return 1 - int(degrees(model, part).sum()) / places


def with_removals(models: Iterable[ModelFacts]) -> list[ModelFacts]:
    """The models that Figures 3 and 7 look at."""
    return [model for model in models if model.heads_removed >= MIN_REMOVED]


def by_method(models: Iterable[ModelFacts]) -> dict[str, list[ModelFacts]]:
    """Group models by their method, in the order of their first."""
    groups: dict[str, list[ModelFacts]] = {}
    for model in models:
        groups.setdefault(model.method, []).append(model)
    return groups


def mean_over(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of arrays of different lengths, entry by entry."""
    padded = np.full((len(arrays), max(map(len, arrays))), np.nan)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return np.nanmean(padded, axis=0), np.nanstd(padded, axis=0)


def removal_by_position(model: ModelFacts) -> np.ndarray:
    """Figure 3: in what share of the modules each head position was removed.

    Returns:
        (most heads of a module,), in [0, 1]; modules without a position don't count for it.
    """
    return mean_over([~module.head_mask for module in model.attention])[0]


def module_removal(models: Sequence[ModelFacts]) -> dict[str, np.ndarray]:
    """By module: in what share of the models that have it each of its heads was removed."""
    found: dict[str, list[np.ndarray]] = {}
    for module in (module for model in models for module in model.attention):
        found.setdefault(module.name, []).append(~module.head_mask)
    return {name: mean_over(masks)[0] for name, masks in found.items()}


def removed_by_kind(models: Sequence[ModelFacts]) -> dict[str, dict[int, float]]:
    """Figure 7 right: heads removed by kind of module and layer, mean over the models."""
    found: dict[str, dict[int, list[int]]] = {}
    for module in (module for model in models for module in model.attention):
        found.setdefault(module.kind, {}).setdefault(module.layer, []).append(module.heads_removed)
    return {
        kind: {layer: float(np.mean(counts)) for layer, counts in sorted(layers.items())}
        for kind, layers in found.items()
    }


def _removed_and_kept(
    model: ModelFacts, before: Sequence[AttentionFacts]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """By module, the importance before pruning of the heads that went and that stayed."""
    scores = {module.name: module.importance for module in before}
    masks = [(scores[module.name], module.head_mask) for module in model.attention]
    return [(own[~mask], own[mask]) for own, mask in masks if mask.any() and not mask.all()]


def relative_importance(model: ModelFacts, before: Sequence[AttentionFacts]) -> float | None:
    """Figure 7 left: mean importance of removed over that of kept heads, mean over the modules.

    Args:
        model: one that is pruned.
        before: the modules of the model that the training started from.

    Returns:
        None where no module has both removed and kept heads, or what was kept weighs nothing.

    Note:
        The paper does not say whether it sums or averages over heads; a mean does not
        depend on how many were removed. Removed heads are zero in the end, so their
        importance is taken from the model that pruning started from.
    """
    pairs = _removed_and_kept(model, before)
    ratios = [removed.mean() / kept.mean() for removed, kept in pairs if kept.any()]
    return float(np.mean(ratios)) if ratios else None


def removed_above_kept(model: ModelFacts, before: Sequence[AttentionFacts]) -> float | None:
    """How often a removed head was more important than one that stayed in its module.

    Beside the ratio, whose size depends on how much the importances differ at all, this is
    a share: one half says that importance played no role.

    Args:
        model, before: as for :func:`relative_importance`.

    Returns:
        The share among all pairs of a removed and a kept head of the same module, ties
        counting half, in [0, 1]; None where there is no such pair.
    """
    signs = [np.sign(removed[:, None] - kept).ravel() for removed, kept in
             _removed_and_kept(model, before)]  # fmt: skip
    return float((1 + np.concatenate(signs).mean()) / 2) if signs else None


def spread_out(models: Sequence[ModelFacts], most: int) -> list[ModelFacts]:
    """At most so many models, evenly over their order by total sparsity; kept in place."""
    if len(models) <= most:
        return list(models)
    order = np.argsort([model.sparsity["total_sparsity"] for model in models], kind="stable")
    picks = {int(order[round(place)]) for place in np.linspace(0, len(models) - 1, most)}
    return [model for place, model in enumerate(models) if place in picks]
