"""The penalties of NeuroPrune: tensors in, scalar out, at least fp32 whatever the weights are.

Each returns the sum over all given blocks, so the paper's objective is
loss per token + alpha * attention_penalty(...) + beta * mlp_penalty(...).

All are sums over rows of a function of the row's l1 norm, f(sum_j |w_j|), so their gradient is
known in closed form: sign(w_j) f'(l1 norm). It is computed for all layers together in a few
passes over the weights, without a graph for each layer and without waiting for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuroprune_fairseq.method.rows import RowBatch, attention_rows, weight_rows
from neuroprune_fairseq.structure import AttentionBlock, MLPBlock

# What a penalty is for a batch of rows: its value, and the slope f' of every row.
Term = Callable[[RowBatch], tuple[Tensor, Tensor]]


class _SumOverRows(torch.autograd.Function):
    """A penalty as one node of the graph: whatever scales the loss scales its gradient, too.

    A node for each batch of rows: gradients are added to the weights' own one batch at a time.
    """

    @staticmethod
    def forward(ctx: Any, batch: RowBatch, term: Term, *_: Tensor) -> Tensor:
        value, ctx.slope = term(batch)
        ctx.batch = batch
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        joined = ctx.batch.join().sign_().mul_(ctx.slope * gradient)
        return None, None, *ctx.batch.split(joined)


def _penalty(batches: Sequence[RowBatch], term: Term) -> Tensor:
    values = [_SumOverRows.apply(batch, term, *batch.weights) for batch in batches]
    return torch.stack(values).sum() if values else torch.zeros(())


def attention_slope(row_norms: Tensor) -> Tensor:
    """The derivative of Eq. 2's sqrt by the l1 norm of a row; 0 for an all-zero row.

    Args:
        row_norms: any shape, >= 0.
    """
    return torch.where(row_norms > 0, 0.5 * row_norms.rsqrt(), 0.0)


def _attention_term(batch: RowBatch) -> tuple[Tensor, Tensor]:
    row_norms = batch.l1_norms(batch.join())
    return row_norms.sqrt().sum(), attention_slope(row_norms)


def attention_penalty(blocks: Iterable[AttentionBlock]) -> Tensor:
    """R_attn, Eq. 2: sum over input dimensions i of sqrt(sum_j |A_ij|), A = [Q, K, V].

    PyTorch stores (out, in), so the paper's row i is column i of q_proj, k_proj and
    v_proj taken together.

    Args:
        blocks: attention blocks with q, k, v weights of (embed_dim, in).

    Returns:
        Scalar, fp32. The gradient of an all-zero row is 0: sqrt's own is infinite where we
        want to end.

    Note:
        Where Q reads another width than K and V (cross-attention between an encoder and
        a decoder of different widths), Q's rows are groups of their own.
    """
    return _penalty(attention_rows(blocks), _attention_term)


def missing_fraction(weight: Tensor, near_zero: float, length: int | None = None) -> Tensor:
    """n_i / row length of Eq. 1: the share of each row's entries with |w| < near_zero.

    Args:
        weight: (..., rows, columns).
        near_zero: epsilon of the paper.
        length: of a row, by default its columns; where it is more, the rest was cut out and
            is missing.

    Returns:
        (..., rows, 1), fp32, in [0, 1], without gradient: a count is constant almost everywhere.
    """
    small = (weight.detach().abs() < near_zero).sum(dim=-1, keepdim=True, dtype=torch.float32)
    length = weight.shape[-1] if length is None else length
    return (small + (length - weight.shape[-1])) / length


def _mlp_term(batch: RowBatch, near_zero: float) -> tuple[Tensor, Tensor]:
    joined = batch.join()
    missing = missing_fraction(joined, near_zero, batch.length)
    return (missing * batch.l1_norms(joined)).sum(), missing


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
    return _penalty(weight_rows(blocks), partial(_mlp_term, near_zero=near_zero))


def _l1_term(batch: RowBatch) -> tuple[Tensor, Tensor]:
    row_norms = batch.l1_norms(batch.join())
    return row_norms.sum(), torch.ones_like(row_norms)


def l1_penalty(blocks: Iterable[AttentionBlock | MLPBlock]) -> Tensor:
    """Plain l1, the paper's sparsity baseline: the sum of |w| over the same weights.

    Args:
        blocks: attention blocks (q, k, v), MLP blocks (fc1, fc2), or both.

    Returns:
        Scalar, fp32.
    """
    return _penalty(weight_rows(blocks), _l1_term)
