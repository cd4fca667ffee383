"""Bringing a model to a given number of heads, by redundancy, importance or both."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.importance import HeadImportance
from neuroprune_fairseq.method.pruning import remove_heads_
from neuroprune_fairseq.method.redundancy import find_dominators, head_distances
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import AttentionBlock, attention_blocks

HEAD_CRITERIA = ("both", "importance", "redundancy")

# A head that goes: index of its module, head, and the head that replaces it, if any.
Removal = tuple[int, int, int | None]
Distance = Callable[[AttentionBlock], Tensor]


def _living_distances(
    model: nn.Module, distance: Distance = head_distances
) -> list[tuple[Tensor, Tensor]]:
    """Per module: its living heads (n,) and their distances (n, n)."""
    found = []
    for block in attention_blocks(model):
        alive = head_mask(block).nonzero().flatten()
        found.append((alive, distance(block)[alive][:, alive]))
    return found


def _dominated(
    living: list[tuple[Tensor, Tensor]], threshold: float
) -> list[tuple[float, Removal]]:
    """Algorithm 3 in every module: what it removes at a threshold, with the distances."""
    removals: list[tuple[float, Removal]] = []
    for module, (alive, distances) in enumerate(living):
        for i, j in enumerate(find_dominators(distances <= threshold).tolist()):
            if i != j:
                removal = (module, int(alive[i]), int(alive[j]))
                removals.append((float(distances[i, j]), removal))
    return removals


def by_redundancy(
    model: nn.Module, surplus: int, distance: Distance = head_distances
) -> list[Removal]:
    """The heads that the smallest distance threshold makes redundant, closest pairs first.

    Args:
        model: a fairseq model.
        surplus: how many heads must go.
        distance: of every two heads of a module, (heads, heads).

    Returns:
        At most ``surplus`` removals; fewer when one head is left in every module.
    """
    living = _living_distances(model, distance)
    thresholds = sorted({float(d) for _, distances in living for d in distances.flatten()})
    counts = _LazyCounts(living, thresholds)
    smallest = min(bisect_left(counts, surplus), len(thresholds) - 1)
    removals = sorted(_dominated(living, thresholds[smallest]))
    return [removal for _, removal in removals[:surplus]]


class _LazyCounts:
    """How many heads Algorithm 3 removes at each threshold; computed where bisect looks."""

    def __init__(self, living: list[tuple[Tensor, Tensor]], thresholds: list[float]) -> None:
        self._living, self._thresholds = living, thresholds

    def __len__(self) -> int:
        return len(self._thresholds)

    def __getitem__(self, index: int) -> int:
        return len(_dominated(self._living, self._thresholds[index]))


def by_importance(
    model: nn.Module, surplus: int, importance: HeadImportance, redundancy: bool
) -> list[Removal]:
    """The heads that matter least, over all modules; a module may go empty.

    Args:
        model: a fairseq model.
        surplus: how many heads must go.
        importance: what was measured in training.
        redundancy: scale a head's importance by its distance to the nearest living head
            of its module, relative to the median of such distances (at most 1): of two
            heads that matter equally, the one that another resembles goes first.
    """
    return [removal for _, removal in _ranked(model, importance, redundancy)[:surplus]]


def _ranked(
    model: nn.Module, importance: HeadImportance, redundancy: bool
) -> list[tuple[float, Removal]]:
    """All living heads, those that matter least first."""
    living = _living_distances(model)
    nearest = [_nearest(distances) for _, distances in living]
    median = torch.cat(nearest).nan_to_num(posinf=0.0).median().clamp(min=1e-12)
    ranked = []
    for module, values in enumerate(importance.of_modules(model)):
        scores = values.to(nearest[module].device)[living[module][0]]
        if redundancy:
            scores = scores * (nearest[module] / median).clamp(max=1.0)
        pairs = zip(scores.tolist(), living[module][0].tolist())
        ranked += [(score, (module, head, None)) for score, head in pairs]
    return sorted(ranked, key=lambda entry: entry[0])


def _nearest(distances: Tensor) -> Tensor:
    """Distance of every head to the nearest other one; infinite for a head alone."""
    off_diagonal = distances.clone()
    off_diagonal.fill_diagonal_(float("inf"))
    return off_diagonal.min(dim=1).values if len(distances) else distances.new_zeros(0)


def _stack(block: AttentionBlock) -> str:
    """Of the module "decoder.layers.3.self_attn": "decoder.layers"."""
    return block.name.rsplit(".", 2)[0]


def even_layouts(model: nn.Module, heads: int) -> list[dict[str, int]]:
    """The ways to have so many heads in all, with as many in every module of a stack.

    Args:
        model: a fairseq model.
        heads: of the whole model.

    Returns:
        Each by stack: "encoder.layers", "decoder.layers"; no way leaves a module without a head.
    """
    modules: dict[str, list[int]] = {}  # living heads of each, by stack
    for block in attention_blocks(model):
        modules.setdefault(_stack(block), []).append(int(head_mask(block).sum()))
    choices = product(*(range(1, min(alive) + 1) for alive in modules.values()))
    layouts = (dict(zip(modules, choice)) for choice in choices)
    return [
        layout
        for layout in layouts
        if sum(number * len(modules[stack]) for stack, number in layout.items()) == heads
    ]


def evenly(
    model: nn.Module, surplus: int, heads: int, importance: HeadImportance, redundancy: bool
) -> list[Removal]:
    """The heads that matter least of those that the best even layout leaves out.

    Args:
        model: a fairseq model.
        surplus: how many heads must go now.
        heads: how many there are when all have gone.
        importance: as in :func:`by_importance`.
        redundancy: as in :func:`by_importance`.
    """
    blocks, ranked = attention_blocks(model), _ranked(model, importance, redundancy)
    by_module = [[entry for entry in ranked if entry[1][0] == i] for i in range(len(blocks))]

    def left_out(layout: dict[str, int]) -> list[tuple[float, Removal]]:
        return [
            entry
            for block, entries in zip(blocks, by_module)
            for entry in entries[: len(entries) - layout[_stack(block)]]
        ]

    going = [left_out(layout) for layout in even_layouts(model, heads)]
    best = min(going, key=lambda entries: sum(score for score, _ in entries))
    return [removal for _, removal in sorted(best, key=lambda entry: entry[0])[:surplus]]


def keep_heads_(
    model: nn.Module,
    keep: int,
    criterion: str,
    importance: HeadImportance,
    merge: str,
    evenly_at: int | None = None,
) -> list[dict[str, Any]]:
    """Remove heads in place until at most ``keep`` are left in the whole model.

    Args:
        model: a fairseq model.
        keep: number of heads, at least the number of modules with "redundancy".
        criterion: one of HEAD_CRITERIA.
        importance: used by "importance" and "both".
        merge: as in pruning.eliminate_redundant_heads, for heads that another replaces.
        evenly_at: where heads go towards an even layout of this number, with "importance" or
            "both".

    Returns:
        One record per module as eliminate_redundant_heads gives; ``replaced`` is None for
        a head that nothing replaces.
    """
    blocks = attention_blocks(model)
    surplus = sum(int(head_mask(block).sum()) for block in blocks) - keep
    removals: list[Removal] = []
    if surplus > 0 and criterion == "redundancy":
        removals = by_redundancy(model, surplus)
    elif surplus > 0 and evenly_at is not None:
        removals = evenly(model, surplus, evenly_at, importance, redundancy=criterion == "both")
    elif surplus > 0:
        removals = by_importance(model, surplus, importance, redundancy=criterion == "both")
    records = []
    for index, block in enumerate(blocks):
        replaced = {head: by for module, head, by in removals if module == index}
        remove_heads_(block, replaced, merge)
        kept = head_mask(block).nonzero().flatten().tolist()
        records.append({"module": block.name, "heads_kept": kept, "replaced": replaced})
    return records
