"""Learning from the probabilities of a teacher (Hinton et al. 2015; Kim and Rush 2016, word level).

At every token a teacher's distribution p stands beside the target. At temperature T both models'
logits z are divided by T before the softmax, and the student's q loses

    T² KL(p || q) = T² sum over v of p_v (log p_v - log q_v)

whose gradient by z is T (q - p): T² keeps it of one size, whatever T is. Gradients reach the
student only if the teacher's numbers carry none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / T).

    Args:
        logits: (..., V), of any float type; log-probabilities are logits, too.
        temperature: T, above 0.

    Returns:
        As ``logits``, fp32.
    """
    return functional.log_softmax(logits.float() / temperature, dim=-1)


def mean_probabilities(log_probs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of several models' probabilities, of the shape of each."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))


def coarse(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(z / T) of some tokens, and of all others together; for large vocabularies.

    A student's graph then holds K + 1 numbers per token in place of V.

    Args:
        logits: (..., V), of any float type; log-probabilities are logits, too.
        tokens: (..., K), long, different along the last dimension.
        temperature: T, above 0.

    Returns:
        Log-probabilities (..., K + 1), fp32, the last one that of the rest, which is taken to be
        fp32's rounding error (1.2e-7) where it is less.
    """
    scaled = logits.float() / temperature if temperature != 1 else logits.float()
    kept = scaled.gather(-1, tokens) - scaled.logsumexp(-1, keepdim=True)
    rest = 1 - kept.exp().sum(-1, keepdim=True)
    return torch.cat([kept, rest.clamp(min=torch.finfo(kept.dtype).eps).log()], dim=-1)


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p || q) = sum over v of p_v (log p_v - log q_v).

    Args:
        teacher: log p, (..., V).
        student: log q, (..., V).

    Returns:
        (...), as ``student``, in nats.
    """
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def distillation_loss(
    teachers: Sequence[Tensor], student: Tensor, temperature: float = 1.0, top_k: int = 0
) -> Tensor:
    """T² KL(p || q) of every token, p the mean of the teachers' probabilities at temperature T.

    Args:
        teachers: logits (..., V) of each, without gradient.
        student: logits (..., V).
        temperature: T, above 0.
        top_k: K tells the K likeliest tokens of p apart, and all others count as one token: the
            KL of these K + 1, which is at most that of all. 0: all V are told apart.

    Returns:
        (...), fp32, in nats.
    """
    target = mean_probabilities([log_probabilities(each, temperature) for each in teachers])
    if 0 < top_k < target.size(-1):
        tokens = target.topk(top_k, dim=-1).indices
        target, own = coarse(target, tokens), coarse(student, tokens, temperature)
    else:
        own = log_probabilities(student, temperature)
    return temperature**2 * kl_divergence(target, own)
