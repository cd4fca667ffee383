"""Bringing a model to a given sparsity: the weights of lowest score go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.sparsity import full_sizes
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks, prunable_weights


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
