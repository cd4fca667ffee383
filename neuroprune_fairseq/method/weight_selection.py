"""Bringing a model to a given sparsity: the weights of lowest score go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.importance import Score
from neuroprune_fairseq.method.sparsity import full_sizes
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks, prunable_weights

# The bits of an fp32 number >= 0, read as an integer, sort as the number does. They are counted in
# two steps: the upper 15 (without the sign), then the lower 16.
_LOWER = 16
_UPPER_VALUES, _LOWER_VALUES = 1 << 15, 1 << _LOWER


def _bits(scores: Sequence[Score]) -> Iterator[Tensor]:
    return (piece.flatten().view(torch.int32) for score in scores for piece in score())


def _upper(bits: Tensor) -> Tensor:
    return (bits >> _LOWER).bitwise_and_(_UPPER_VALUES - 1)


def _place(histogram: Tensor, count: int) -> tuple[int, int]:
    """The value that the count-th entry (from 1) has, and how many entries have a lower one."""
    ends = histogram.cumsum(0)
    value = int(torch.searchsorted(ends, count))
    return value, int(ends[value] - histogram[value])


def _counted(pieces: Iterator[Tensor], number: int, device: torch.device) -> Tensor:
    """A histogram: how often each of 0 ... number - 1 is there. Nothing is kept of a piece."""
    histogram = torch.zeros(number, dtype=torch.long, device=device)
    one = histogram.new_ones(())
    for values in pieces:
        if len(values) < number:  # a histogram of their own would be mostly zeros
            histogram.scatter_add_(0, values.long(), one.expand(len(values)))
        else:
            histogram += torch.bincount(values, minlength=number)
    return histogram


@torch.no_grad()
def count_lowest(
    scores: Sequence[Score], count: int, device: torch.device | None = None
) -> tuple[float, int]:
    """The exact count-th lowest score, by two histograms: no scores are sorted or kept.

    Args:
        scores: of all weights, >= 0.
        count: from 1 to the number of all scores.
        device: of the scores, by default the CPU.

    Returns:
        The score, and how many of the ``count`` lowest have just this one.
    """
    device = torch.device("cpu") if device is None else device
    upper, below = _place(_counted(map(_upper, _bits(scores)), _UPPER_VALUES, device), count)
    within = (bits[_upper(bits) == upper] & (_LOWER_VALUES - 1) for bits in _bits(scores))
    lower, lower_below = _place(_counted(within, _LOWER_VALUES, device), count - below)
    bits = torch.tensor(upper << _LOWER | lower, dtype=torch.int32, device="cpu")
    return bits.view(torch.float32).item(), count - below - lower_below


@torch.no_grad()
def zero_lowest_(weights: Sequence[Tensor], scores: Sequence[Score], count: int) -> None:
    """Zero the ``count`` weights of lowest score in place; of equal scores the first go.

    Args:
        weights: any shapes.
        scores: of each weight; >= 0, a zero weight's is 0. They are asked for three times, the
            last time while their weight is edited, piece by piece.
        count: how many entries are zero afterwards (more if more already are).
    """
    count = min(count, sum(weight.numel() for weight in weights))
    if count <= 0:
        return
    limit, equal_left = count_lowest(scores, count, weights[0].device)
    for weight, score in zip(weights, scores):
        left = weight.view(-1)  # an error where that would be a copy
        for piece in score():
            values, entries = piece.flatten(), left[: piece.numel()]
            lowest = values < limit
            if equal_left:
                equal = values.eq(limit).nonzero()[:equal_left, 0]
                lowest.index_fill_(0, equal, True)
                equal_left -= len(equal)
            # A sixth of the time of masked_fill_; what is added makes 0.0 of -0.0.
            entries.mul_(lowest.logical_not_()).add_(0.0)
            left = left[piece.numel() :]


def sparsify_(model: nn.Module, part: str, sparsity: float, scores: Sequence[Score]) -> None:
    """Zero the weights of lowest score in place until a share of them is zero.

    Args:
        model: a fairseq model.
        part: "attn", "mlp" or "total".
        sparsity: share of the part's prunable weights that end up zero, in [0, 1).
        scores: of all prunable weights, as WeightImportance.scores gives them; a zero
            weight has score 0.
    """
    attn = prunable_weights(attention_blocks(model))
    weights = [*attn, *prunable_weights(mlp_blocks(model))]
    parts = {"attn": slice(len(attn)), "mlp": slice(len(attn), None), "total": slice(None)}
    weights, scores = weights[parts[part]], scores[parts[part]]
    full = full_sizes(model)[part]
    cut = full - sum(weight.numel() for weight in weights)
    zero_lowest_(weights, scores, round(sparsity * full) - cut)
