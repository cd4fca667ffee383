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

from neuroprune_fairseq.penalties import missing_fraction
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

# The largest share of a row's mean magnitude that one step may take away.
MAX_SHRINKAGE = 0.1


def soft_threshold_(weight: Tensor, threshold: Tensor) -> None:
    """In place: sign(w) max(|w| - threshold, 0), broadcasting the threshold."""
    shrunk = (weight.abs() - threshold).clamp_(min=0.0)
    weight.copy_(shrunk.copysign_(weight).masked_fill_(shrunk == 0, 0.0))


def _capped(threshold: Tensor, mean_magnitude: Tensor) -> Tensor:
    return torch.minimum(threshold, MAX_SHRINKAGE * mean_magnitude)


def shrink_attention_(weights: tuple[Tensor, ...], step: float) -> None:
    """One proximal step of Eq. 2 on weights whose columns are the same input dimensions.

    Args:
        weights: of (out, in) each, changed in place.
        step: learning rate x alpha.
    """
    row_norms = sum(weight.abs().sum(dim=0) for weight in weights)  # (in,)
    slope = torch.where(row_norms > 0, 0.5 * row_norms.rsqrt(), 0.0)
    entries = sum(weight.shape[0] for weight in weights)
    threshold = _capped(step * slope, row_norms / entries)
    for weight in weights:
        soft_threshold_(weight, threshold)


def shrink_mlp_(weight: Tensor, step: float, near_zero: float) -> None:
    """One proximal step of Eq. 1 on fc1's or fc2's weight.

    Args:
        weight: (rows, columns), changed in place.
        step: learning rate x beta.
        near_zero: epsilon of Eq. 1.
    """
    threshold = step * missing_fraction(weight, near_zero)  # (rows, 1)
    soft_threshold_(weight, _capped(threshold, weight.abs().mean(dim=1, keepdim=True)))


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
        for block in attention_blocks(model):
            for weights in block.input_groups:
                shrink_attention_(weights, lr * attn_weight)
    if mlp_weight:
        for block in mlp_blocks(model):
            for weight in block.prunable_weights:
                shrink_mlp_(weight, lr * mlp_weight, near_zero)
