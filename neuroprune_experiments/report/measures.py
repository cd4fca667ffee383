"""The numbers of the paper's Figures 2, 3 and 7. Pure: facts in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts

# The paper's Figures 3 and 7 look at runs that removed at least this many heads.
MIN_REMOVED = 10


def degrees(model: ModelFacts, part: str) -> np.ndarray:
    """Nonzero entries of every row of all fc1 or fc2: (rows of all layers,), long."""
    return np.concatenate(_own_degrees(model, part))


def degree_spread(model: ModelFacts, part: str) -> float:
    """Figure 2: standard deviation of the degrees within a layer, in connections.

    Note:
        The variance is taken in each layer, then averaged over all rows: that one layer lost
        more than another says nothing about preferences among neurons.
    """
    return _pooled([(own, float(own.var())) for own in _own_degrees(model, part)])


def scattered_variance(rows: int, columns: int, nonzeros: int) -> float:
    """Expected variance of row degrees when a matrix's nonzeros lie anywhere at random.

    A row then draws its ``columns`` places out of all without replacement, so its degree is
    hypergeometric.
    """
    places = rows * columns
    if places <= 1:
        return 0.0
    share = nonzeros / places
    return columns * share * (1 - share) * (places - columns) / (places - 1)


def scattered_spread(model: ModelFacts, part: str) -> float:
    """What :func:`degree_spread` would be if every matrix's zeros were scattered at random.

    Each matrix keeps its number of zeros, so a difference to the real spread is about which
    rows have them. This is what preferential attachment must exceed.
    """
    columns = [mlp.patterns[part].full_shape[1] for mlp in model.mlps]
    pairs = zip(_own_degrees(model, part), columns)
    return _pooled([(own, scattered_variance(len(own), n, int(own.sum()))) for own, n in pairs])


def _own_degrees(model: ModelFacts, part: str) -> list[np.ndarray]:
    """The degrees of every layer: (rows,), long."""
    return [mlp.degrees[part] for mlp in model.mlps]


def _pooled(variances: Sequence[tuple[np.ndarray, float]]) -> float:
    """The standard deviation of layers with these degrees and variances, by their rows."""
    rows = sum(len(own) for own, _ in variances)
    return float(np.sqrt(sum(len(own) * variance for own, variance in variances) / rows))


def part_sparsity(model: ModelFacts, part: str) -> float:
    """Share of zeros of all fc1 or all fc2 weights."""
    places = sum(int(np.prod(mlp.patterns[part].full_shape)) for mlp in model.mlps)
    return 1 - int(degrees(model, part).sum()) / places


def with_removals(models: Iterable[ModelFacts], positions: bool = True) -> list[ModelFacts]:
    """The models that Figures 3 and 7 look at.

    Args:
        models: any.
        positions: only those of which it is known which heads are gone.
    """
    found = [model for model in models if model.heads_removed >= MIN_REMOVED]
    return [model for model in found if model.knows_positions or not positions]


def by_method(models: Iterable[ModelFacts]) -> dict[str, list[ModelFacts]]:
    """Group models by their method, in the order of their first."""
    groups: dict[str, list[ModelFacts]] = {}
    for model in models:
        groups.setdefault(model.method, []).append(model)
    return groups


def removal_by_position(model: ModelFacts) -> np.ndarray:
    """Figure 3: in what share of the modules each head position was removed.

    Args:
        model: of which the positions are known.

    Returns:
        (most heads of a module,), in [0, 1]; modules without a position don't count for it.
    """
    most = max(module.num_heads for module in model.attention)
    removed, modules = np.zeros(most), np.zeros(most)
    for module in model.attention:
        removed[: module.num_heads] += ~module.head_mask
        modules[: module.num_heads] += 1
    return removed / modules


def mean_over_models(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of arrays of different lengths, entry by entry."""
    longest = max(map(len, arrays))
    padded = np.full((len(arrays), longest), np.nan)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return np.nanmean(padded, axis=0), np.nanstd(padded, axis=0)


def module_removal(models: Sequence[ModelFacts]) -> dict[str, np.ndarray]:
    """By module: in what share of the models each of its heads was removed.

    Models of another architecture than the first are left out of what they lack.
    """
    found: dict[str, list[np.ndarray]] = {}
    for model in models:
        for module in model.attention:
            found.setdefault(module.name, []).append((~module.head_mask).astype(float))
    return {name: mean_over_models(masks)[0] for name, masks in found.items()}


def removed_by_kind(models: Sequence[ModelFacts]) -> dict[str, dict[int, float]]:
    """Figure 7 right: heads removed by kind of module and layer, mean over the models."""
    found: dict[str, dict[int, list[int]]] = {}
    for model in models:
        for module in model.attention:
            layers = found.setdefault(module.kind, {})
            layers.setdefault(module.layer, []).append(module.heads_removed)
    return {
        kind: {layer: float(np.mean(counts)) for layer, counts in sorted(layers.items())}
        for kind, layers in found.items()
    }


def module_importance_ratio(scores: np.ndarray, head_mask: np.ndarray) -> float | None:
    """Section 5.3 in one module: mean importance of removed heads over that of kept heads.

    Args:
        scores: (heads,), importance before pruning.
        head_mask: (heads,), bool, True = keep.

    Returns:
        None where nothing was removed, nothing was kept, or what was kept weighs nothing.
    """
    if head_mask.all() or not head_mask.any() or not scores[head_mask].any():
        return None
    return float(scores[~head_mask].mean() / scores[head_mask].mean())


def relative_importance(model: ModelFacts, before: Sequence[AttentionFacts]) -> float | None:
    """Figure 7 left: the ratio of :func:`module_importance_ratio`, mean over the modules.

    Args:
        model: of which the positions are known.
        before: the modules of the model that the training started from.

    Returns:
        None where no module has both removed and kept heads.

    Note:
        The paper does not say whether it sums or averages over heads; a mean does not
        depend on how many were removed. Removed heads are zero in the end, so their
        importance is taken from the model that pruning started from.
    """
    scores = {module.name: module.importance for module in before}
    ratios = [
        module_importance_ratio(scores[module.name], module.head_mask) for module in model.attention
    ]
    known = [ratio for ratio in ratios if ratio is not None]
    return float(np.mean(known)) if known else None


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
    scores = {module.name: module.importance for module in before}
    above, pairs = 0.0, 0
    for module in model.attention:
        own = scores[module.name]
        removed, kept = own[~module.head_mask, None], own[None, module.head_mask]
        above += (removed > kept).sum() + (removed == kept).sum() / 2
        pairs += removed.size * kept.size
    return float(above / pairs) if pairs else None


def spread_out(models: Sequence[ModelFacts], most: int) -> list[ModelFacts]:
    """At most so many models, evenly over their order by total sparsity; kept in place."""
    if len(models) <= most:
        return list(models)
    order = sorted(range(len(models)), key=lambda i: models[i].sparsity["total_sparsity"])
    picks = {order[round(k)] for k in np.linspace(0, len(order) - 1, most)}
    return [model for place, model in enumerate(models) if place in picks]
