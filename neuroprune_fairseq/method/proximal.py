"""The proximal solver: exact zeros for the penalties of Eq. 1 and 2.

Both penalties are sums over rows of a function that is concave in the l1 norm of a row (for
Eq. 1 with the row's share of missing entries held fixed, as its gradient holds it),
F = sum_i f_i(sum_j |w_ij|). At the current weights a concave f lies below its tangent, so

    F(W) <= F(W0) + sum_i s_i sum_j (|w_ij| - |w0_ij|),   s_i = f_i'(row i's l1 norm at W0)

and a gradient step on the loss followed by the proximal map of step size eta on that bound,

    w_ij <- sign(w_ij) max(|w_ij| - eta s_i, 0),

decreases loss + F as a proximal gradient step does (majorisation-minimisation, also known
as iteratively reweighted l1). The slopes are

    attention, Eq. 2:  s_i = alpha / (2 sqrt(row l1 norm));  0 for an all-zero row, which stays
    MLP, Eq. 1:        s_i = beta x (share of the row's entries below near_zero)

The step eta is the learning rate, not the learning rate over Adam's second moment: as with
decoupled weight decay, the shrinkage does not depend on how noisy a weight's gradient is.
A row's threshold is capped at a share of its mean magnitude, since s_i grows without bound
as a row shrinks: without the cap a strong alpha empties the model within an epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.penalties import attention_slope, missing_fraction
from neuroprune_fairseq.method.rows import RowBatch, attention_rows, weight_rows
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

# The largest share of a row's mean magnitude that one step may take away.
MAX_SHRINKAGE = 0.1


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """What sign(w) max(|w| - threshold, 0) takes off w: w itself, or as much as the threshold.

    Args:
        weight: any shape.
        threshold: >= 0, broadcast to it.
    """
    return weight.clamp(-threshold, threshold)


def _shrink_(batch: RowBatch, joined: Tensor, threshold: Tensor, row_norms: Tensor) -> None:
    """Soft-threshold a batch's weights, each by no more than a share of its row's mean."""
    capped = torch.minimum(threshold, MAX_SHRINKAGE / batch.length * row_norms)
    torch._foreach_sub_(batch.weights, batch.split(soft_threshold(joined, capped)))


def shrink_attention_(batch: RowBatch, step: float) -> None:
    """One proximal step of Eq. 2, in place.

    Args:
        batch: of ``rows.attention_rows``.
        step: learning rate x alpha.
    """
    joined = batch.join()
    row_norms = batch.l1_norms(joined)
    _shrink_(batch, joined, step * attention_slope(row_norms), row_norms)


def shrink_mlp_(batch: RowBatch, step: float, near_zero: float) -> None:
    """One proximal step of Eq. 1, in place.

    Args:
        batch: of ``rows.weight_rows``.
        step: learning rate x beta.
        near_zero: epsilon of Eq. 1.
    """
    joined = batch.join()
    threshold = step * missing_fraction(joined, near_zero, batch.length)
    _shrink_(batch, joined, threshold, batch.l1_norms(joined))


@torch.no_grad()
def proximal_step_(
    model: nn.Module, lr: float, attn_weight: float, mlp_weight: float, near_zero: float
) -> None:
    """Shrink every penalised weight in place, after an optimizer step.

    Args:
        model: a fairseq model whose parameters are fp32 (precision.master_weights).
        lr: learning rate of the step that was just made.
        attn_weight: alpha.
        mlp_weight: beta.
        near_zero: epsilon of Eq. 1.
    """
    if attn_weight:
        for batch in attention_rows(attention_blocks(model)):
            shrink_attention_(batch, lr * attn_weight)
    if mlp_weight:
        for batch in weight_rows(mlp_blocks(model)):
            shrink_mlp_(batch, lr * mlp_weight, near_zero)
