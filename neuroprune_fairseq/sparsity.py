"""The one definition of every sparsity and head count that is logged, reported or plotted.

Prunable weights are those the penalties act on: q_proj, k_proj, v_proj, fc1 and fc2 weights.
Biases, out_proj, embeddings and layer norms are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuroprune_fairseq.structure import (
    AttentionBlock,
    attention_blocks,
    mlp_blocks,
    prunable_weights,
)


@torch.no_grad()
def head_mask(attention: AttentionBlock) -> Tensor:
    """Which heads can contribute to the module's output.

    A head is lost when its out_proj columns are all zero, or its v rows (weights and
    bias) are: either way it adds exactly nothing.

    Args:
        attention: one attention block.

    Returns:
        (heads,), bool, True = keep.
    """
    reads = attention.head_columns().ne(0).any(dim=2).any(dim=0)
    values = attention.head_rows(attention.v_proj.weight).ne(0).any(dim=1)
    if attention.v_proj.bias is not None:
        values |= attention.head_rows(attention.v_proj.bias).ne(0).any(dim=1)
    return reads & values


def _share(count: int, weights: Sequence[Tensor]) -> float:
    return count / max(1, sum(weight.numel() for weight in weights))


@torch.no_grad()
def count_zeros(weights: Sequence[Tensor], tolerance: float = 0.0) -> int:
    """How many entries have |w| <= tolerance."""
    counts = [weight.abs().le(tolerance).sum() for weight in weights]
    return int(torch.stack(counts).sum()) if counts else 0


def measure(model: nn.Module, tolerance: float = 0.0) -> dict[str, float | int | dict]:
    """Count the heads and the zeros of a model.

    Args:
        model: a fairseq model, wrapped or not.
        tolerance: entries with |w| <= tolerance count as zero.

    Returns:
        heads_kept, heads_total: number of heads that contribute, and of all heads.
        heads_kept_per_module: the same by module name, in forward order.
        attn_sparsity, mlp_sparsity, total_sparsity: share of zeros among the prunable
        weights of attention, MLPs and both, in [0, 1].
    """
    attention = attention_blocks(model)
    attn_weights, mlp_weights = prunable_weights(attention), prunable_weights(mlp_blocks(model))
    attn_zeros = count_zeros(attn_weights, tolerance)
    mlp_zeros = count_zeros(mlp_weights, tolerance)
    per_module = {block.name: int(head_mask(block).sum()) for block in attention}
    return {
        "heads_kept": sum(per_module.values()),
        "heads_total": sum(block.num_heads for block in attention),
        "heads_kept_per_module": per_module,
        "attn_sparsity": _share(attn_zeros, attn_weights),
        "mlp_sparsity": _share(mlp_zeros, mlp_weights),
        "total_sparsity": _share(attn_zeros + mlp_zeros, attn_weights + mlp_weights),
    }
