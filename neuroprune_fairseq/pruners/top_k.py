"""Choosing K of n: relaxed, hard, and hard with a straight-through gradient. Pure."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise.

    Args:
        uniform: noise, uniform in [0, 1), any shape.

    Returns:
        As ``uniform``, finite.
    """
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))


def _log_of_rest(log_share: Tensor) -> Tensor:
    """log(1 - p) from log p, finite (and with gradient 0) where p has become 1."""
    floor = torch.finfo(log_share.dtype).tiny
    return torch.log(-torch.expm1(log_share.clamp(max=-floor)))


def relaxed_top_k(scores: Tensor, k: int, temperature: float) -> Tensor:
    """Relaxed K-hot vector of Xie and Ermon (2019), as Li et al. (2021) use it.

    K softmaxes in a row; what a share p took is removed from its score by adding
    log(1 - p). Their sum is the result.

    Args:
        scores: (n,), perturbed by Gumbel noise for a sample, fp64 for low temperatures.
        k: how many, 1 to n.
        temperature: > 0; towards 0 the result becomes the indicator of the k largest.

    Returns:
        (n,), >= 0, sums to k. An entry may exceed 1 a little at high temperatures.

    Note:
        Shares stay logarithms until they are summed, so a temperature of 1e-8 neither
        overflows nor loses the small ones.
    """
    gates = torch.zeros_like(scores)
    for _ in range(k):
        log_share = torch.log_softmax(scores / temperature, dim=0)
        gates = gates + log_share.exp()
        scores = scores + _log_of_rest(log_share)
    return gates


def hard_top_k(scores: Tensor, k: int) -> Tensor:
    """Indicator of the k largest scores, without gradient.

    Returns:
        (n,), k times 1.0, else 0.0; of equal scores the first ones.
    """
    order = scores.detach().sort(descending=True, stable=True).indices
    return torch.zeros_like(scores).index_fill_(0, order[:k], 1.0)


def straight_through_top_k(scores: Tensor, k: int) -> Tensor:
    """The hard choice in the forward pass, the identity in the backward pass.

    Returns:
        (n,), exactly 0.0 or 1.0.
    """
    return hard_top_k(scores, k) + (scores - scores.detach())


def annealed_temperature(initial: float, final: float, updates: int, cooldown: int) -> float:
    """Exponential annealing: from initial at update 0 to final at update ``cooldown``.

    Args:
        initial: temperature at the start, > 0.
        final: temperature from update ``cooldown`` on, > 0.
        updates: updates done so far.
        cooldown: length of the annealing in updates, >= 1.
    """
    share = min(1.0, updates / cooldown)
    return math.exp((1.0 - share) * math.log(initial) + share * math.log(final))
