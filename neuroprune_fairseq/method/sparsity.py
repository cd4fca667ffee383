"""The one definition of every sparsity and head count that is logged, reported or plotted.

Prunable weights are those the penalties act on: q_proj, k_proj, v_proj, fc1 and fc2 weights.
Biases, out_proj, embeddings and layer norms are not counted. What was cut out of a model (see
compact) is counted as zero: cutting changes neither its sparsity nor its number of heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuroprune_fairseq.structure import (
    AttentionBlock,
    all_attention,
    attention_blocks,
    full_num_heads,
    mlp_blocks,
    prunable_weights,
    removed_mlps,
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


def full_sizes(model: nn.Module) -> dict[str, int]:
    """How many prunable weights a model began with, before any were cut out.

    Args:
        model: a fairseq model, wrapped or not.

    Returns:
        Numbers by part: "attn", "mlp" and "total".
    """
    attn = sum(block.full_size for block in all_attention(model))
    mlp = sum(block.full_size for block in mlp_blocks(model))
    mlp += sum(block.full_size for block in removed_mlps(model))
    return {"attn": attn, "mlp": mlp, "total": attn + mlp}


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
        heads_kept_per_module: the same by module name, in forward order; a module that was
        cut out as a whole comes last.
        attn_sparsity, mlp_sparsity, total_sparsity: share of zeros among the prunable
        weights of attention, MLPs and both, in [0, 1].
    """
    attention = attention_blocks(model)
    weights = {"attn": prunable_weights(attention), "mlp": prunable_weights(mlp_blocks(model))}
    full, zeros = full_sizes(model), {}
    for part, tensors in weights.items():
        cut = full[part] - sum(weight.numel() for weight in tensors)
        zeros[part] = cut + count_zeros(tensors, tolerance)
    zeros["total"] = sum(zeros.values())
    per_module = {block.name: int(head_mask(block).sum()) for block in attention}
    per_module.update((b.name, 0) for b in all_attention(model) if not b.num_heads)
    return {
        "heads_kept": sum(per_module.values()),
        "heads_total": full_num_heads(model),
        "heads_kept_per_module": per_module,
        **{f"{part}_sparsity": zeros[part] / max(1, full[part]) for part in zeros},
    }
