"""Named targets: exactly K heads, a sparsity within half a percent; on a schedule, then held.

The paper's limitations name it: heads cannot be asked for, and three hyper-parameters must
be guessed. Here the controller finds them: for heads the smallest distance threshold (or the
least important heads), for weights the smallest multiple of the penalties' slopes that
reaches the scheduled number of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuroprune_fairseq.penalties import missing_fraction
from neuroprune_fairseq.sparsity import full_sizes
from neuroprune_fairseq.structure import AttentionBlock, MLPBlock, attention_blocks, mlp_blocks


@dataclass(frozen=True)
class Schedule:
    """The cubic schedule of gradual pruning (Zhu and Gupta, 2017).

    From ``start`` to ``end`` (updates) the share of the way is 1 - (1 - t)^3: fast while
    there is much to spare, slow towards the target.
    """

    start: int
    end: int
    interval: int = 10

    def progress(self, num_updates: int) -> float:
        """Share of the way to the target after ``num_updates`` updates, in [0, 1]."""
        if num_updates >= self.end:
            return 1.0
        t = max(0.0, (num_updates - self.start) / max(1, self.end - self.start))
        return 1.0 - (1.0 - t) ** 3

    def acts(self, num_updates: int) -> bool:
        """Whether the controller edits the model after this update."""
        inside = self.start < num_updates < self.end
        return num_updates == self.end or (inside and num_updates % self.interval == 0)


def attention_scores(attention: AttentionBlock) -> list[Tensor]:
    """Multiple of Eq. 2's slope, 1 / (2 sqrt(row l1)), at which each weight would be zero.

    Args:
        attention: one attention block.

    Returns:
        One tensor per prunable weight, of its shape: 2 |w| sqrt(row l1 norm).
    """
    scores = []
    for weights in attention.input_groups:
        row_norms = sum(weight.float().abs().sum(dim=0) for weight in weights)
        scores += [2.0 * weight.float().abs() * row_norms.sqrt() for weight in weights]
    return scores


def mlp_scores(mlp: MLPBlock) -> list[Tensor]:
    """Multiple of Eq. 1's slope, the row's share of missing entries, at which w would be zero.

    Args:
        mlp: one MLP block.

    Returns:
        One tensor per prunable weight, of its shape. A row that misses nothing has slope
        0 in Eq. 1 and could never start; every row counts one missing entry more.
    """
    scores = []
    for weight, length in zip(mlp.prunable_weights, mlp.row_lengths):
        slope = missing_fraction(weight, torch.finfo(weight.dtype).tiny, length) + 1.0 / length
        scores.append(weight.float().abs() / slope)
    return scores


def _weights_and_scores(model: nn.Module, part: str) -> tuple[list[Tensor], list[Tensor]]:
    weights: list[Tensor] = []
    scores: list[Tensor] = []
    for block in attention_blocks(model) if part in ("attn", "total") else ():
        weights += block.prunable_weights
        found = attention_scores(block)
        scores += _on_one_scale(found, block) if part == "total" else found
    for block in mlp_blocks(model) if part in ("mlp", "total") else ():
        weights += block.prunable_weights
        found = mlp_scores(block)
        scores += _on_one_scale(found, block) if part == "total" else found
    return weights, scores


def _on_one_scale(scores: list[Tensor], block: AttentionBlock | MLPBlock) -> list[Tensor]:
    """Scores of both kinds relative to the mean of their weight, what was cut included as 0."""
    means = (score.sum() / size for score, size in zip(scores, block.full_sizes))
    return [score / mean.clamp(min=1e-12) for score, mean in zip(scores, means)]


@torch.no_grad()
def zero_lowest_(weights: Sequence[Tensor], scores: Sequence[Tensor], count: int) -> None:
    """Zero the ``count`` weights of lowest score in place; zeros have score 0 and go first.

    Args:
        weights: any shapes.
        scores: fp32, of the same shapes, >= 0.
        count: how many entries are zero afterwards (more if more already are).
    """
    if count <= 0:
        return
    ranked = torch.cat([score.flatten() for score in scores])
    order = torch.argsort(ranked, stable=True)
    lowest = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
    lowest[order[:count]] = True
    sizes = [weight.numel() for weight in weights]
    for weight, mask in zip(weights, lowest.split(sizes)):
        weight.masked_fill_(mask.view_as(weight), 0.0)


def sparsify_(model: nn.Module, part: str, sparsity: float) -> None:
    """Zero weights of the model in place until a share of them is zero.

    Args:
        model: a fairseq model.
        part: "attn", "mlp" or "total".
        sparsity: share of the part's prunable weights that end up zero, in [0, 1).
    """
    weights, scores = _weights_and_scores(model, part)
    full = full_sizes(model)[part]
    cut = full - sum(weight.numel() for weight in weights)
    zero_lowest_(weights, scores, round(sparsity * full) - cut)


class HeldZeros:
    """Holds the zeros of prunable weights against the optimizer; read off the weights."""

    def __init__(self, model: nn.Module) -> None:
        blocks = [*attention_blocks(model), *mlp_blocks(model)]
        masks = [(weight, weight == 0) for block in blocks for weight in block.prunable_weights]
        self._held = [(weight, mask) for weight, mask in masks if mask.any()]

    @torch.no_grad()
    def zero_(self) -> None:
        """Zero what is held in place, after every optimizer step."""
        for weight, mask in self._held:
            weight.masked_fill_(mask, 0.0)
