"""Which heads are redundant: distances, dominators (Algorithm 3) and importance. Pure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pdist

from neuroprune_fairseq.structure import AttentionBlock, concatenated_heads


@torch.no_grad()
def head_distances(attention: AttentionBlock) -> Tensor:
    """Distance of every two heads (Algorithm 2): l_inf over their Q, K, V weights.

    Args:
        attention: one attention block.

    Returns:
        (heads, heads), fp32, symmetric, 0 on the diagonal.

    Note:
        Besides the result it takes one fp32 copy of the module's q, k, v weights.
    """
    heads = concatenated_heads(attention)  # (heads, weights per head)
    first, second = torch.triu_indices(len(heads), len(heads), offset=1, device=heads.device)
    distances = heads.new_zeros(len(heads), len(heads))
    # Every pair once, in one call that needs no memory but for the result.
    distances[first, second] = distances[second, first] = pdist(heads, p=float("inf"))
    return distances


def find_dominators(similar: Tensor) -> Tensor:
    """FIND_DOMINATING, Algorithm 3: an approximate dominating set of the similarity graph.

    Head j dominates head i when j is similar to all that i is similar to and to more.
    Of heads that are similar to exactly the same set, the last one stays.

    Args:
        similar: S, (heads, heads), bool or 0/1, symmetric with a true diagonal.

    Returns:
        (heads,) long, on the CPU: entry i is the head that replaces i, i itself where none
        does. A dominator is never replaced itself, so at least one head stays.
    """
    # A row as the bits of one integer: set inclusion is a single operation.
    rows = [sum(1 << j for j, entry in enumerate(row) if entry) for row in similar.tolist()]
    dominators = []
    for i in range(len(rows)):
        best = i
        for j, row in enumerate(rows):
            included = rows[best] & ~row == 0
            if included and (rows[best] != row or best < j):
                best = j
        dominators.append(best)
    return torch.tensor(dominators, dtype=torch.long, device="cpu")


@torch.no_grad()
def head_importance(attention: AttentionBlock) -> Tensor:
    """Section 5.3: the sum of the absolute out_proj weights that emerge from a head.

    Args:
        attention: one attention block.

    Returns:
        (heads,), fp32, >= 0.
    """
    return attention.head_columns().float().abs().sum(dim=(0, 2))
