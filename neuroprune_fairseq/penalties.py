"""The penalties of NeuroPrune: tensors in, scalar out, fp32 whatever the model's precision.

Each returns the sum over all given blocks, so the paper's objective is
loss per token + alpha * attention_penalty(...) + beta * mlp_penalty(...).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from neuroprune_fairseq.structure import AttentionBlock, MLPBlock, prunable_weights


def _safe_sqrt(x: Tensor) -> Tensor:
    """Square root with gradient 0 where x is 0: sqrt's own is infinite where we want to end."""
    positive = x > 0
    return torch.where(positive, x, 1.0).sqrt() * positive


def _total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros(())


def attention_penalty(blocks: Iterable[AttentionBlock]) -> Tensor:
    """R_attn, Eq. 2: sum over input dimensions i of sqrt(sum_j |A_ij|), A = [Q, K, V].

    PyTorch stores (out, in), so the paper's row i is column i of q_proj, k_proj and
    v_proj taken together.

    Args:
        blocks: attention blocks with q, k, v weights of (embed_dim, in).

    Returns:
        Scalar, fp32. The gradient of an all-zero row is 0.

    Note:
        Where Q reads another width than K and V (cross-attention between an encoder and
        a decoder of different widths), Q's rows are groups of their own.
    """
    terms = []
    for block in blocks:
        for weights in block.input_groups:
            row_norms = sum(weight.float().abs().sum(dim=0) for weight in weights)  # (in,)
            terms.append(_safe_sqrt(row_norms).sum())
    return _total(terms)


def missing_fraction(weight: Tensor, near_zero: float) -> Tensor:
    """n_i / row length of Eq. 1: the share of each row's entries with |w| < near_zero.

    Args:
        weight: (rows, columns).
        near_zero: epsilon of the paper.

    Returns:
        (rows, 1), fp32, in [0, 1], without gradient: a count is constant almost everywhere.
    """
    return (weight.detach().abs() < near_zero).float().mean(dim=1, keepdim=True)


def mlp_penalty(blocks: Iterable[MLPBlock], near_zero: float) -> Tensor:
    """R_mlp, Eq. 1: every row's l1 norm, weighted by the share of its missing entries.

    The rows of fc1 (hidden neurons) and of fc2 (output neurons); the fewer connections
    a neuron has left, the harder the rest is pushed (preferential attachment).

    Args:
        blocks: MLP blocks.
        near_zero: epsilon, the magnitude below which an entry counts as missing.

    Returns:
        Scalar, fp32.
    """
    weights = prunable_weights(blocks)
    return _total([(missing_fraction(w, near_zero) * w.float().abs()).sum() for w in weights])


def l1_penalty(blocks: Iterable[AttentionBlock | MLPBlock]) -> Tensor:
    """Plain l1, the paper's sparsity baseline: the sum of |w| over the same weights.

    Args:
        blocks: attention blocks (q, k, v), MLP blocks (fc1, fc2), or both.

    Returns:
        Scalar, fp32.
    """
    return _total([weight.float().abs().sum() for weight in prunable_weights(blocks)])
