"""Named targets: exactly K heads, a sparsity within half a percent; on a schedule, then held.

The paper's limitations name it: heads cannot be asked for, and three hyper-parameters must
be guessed. Here the controller finds them: for heads the smallest distance threshold (or the
least important heads), and of the weights those go that matter least to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.sparsity import full_sizes
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks, prunable_weights


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

    def first(self, share: float) -> Schedule:
        """The same way, but at its end after this share of the updates."""
        return replace(self, end=self.start + round(share * (self.end - self.start)))

    def acts(self, num_updates: int) -> bool:
        """Whether the controller edits the model after this update."""
        inside = self.start < num_updates < self.end
        return num_updates == self.end or (inside and num_updates % self.interval == 0)


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


def sparsify_(model: nn.Module, part: str, sparsity: float, scores: Sequence[Tensor]) -> None:
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
