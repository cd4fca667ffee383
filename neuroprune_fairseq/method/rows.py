"""The paper's rows of many weights at once: a few operations on large tensors, not many on small.

A row is a set of weights that a penalty sees as one. For attention (Eq. 2) it is a column of q, k
and v taken together, for an MLP (Eq. 1) a row of fc1 or of fc2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from neuroprune_fairseq.structure import AttentionBlock, MLPBlock

# How many entries are joined: on a CPU what stays in a core's cache, on a GPU enough for few
# kernel launches. It bounds the memory for the copies.
JOINED_ON_CPU, JOINED_ON_GPU = 2**18, 2**24


@dataclass(frozen=True)
class RowBatch:
    """Weights that are joined to a stack of matrices of one shape, whose rows lie along ``dim``.

    Example: the q, k, v weights of two modules of width 96, 3 x 2 tensors of (96, 96), are joined
    to (2, 288, 96) with ``dim`` 1; the rows of the paper are its 2 x 96 columns.
    """

    weights: tuple[Tensor, ...]  # (out, in) each, all of one width
    matrices: int
    dim: int  # of the joined tensor: 1 or 2
    length: int  # of a row, entries that were cut included

    def join(self) -> Tensor:
        """A copy of the weights: (matrices, entries, width)."""
        return torch.cat(self.weights).view(self.matrices, -1, self.weights[0].shape[1])

    def split(self, joined: Tensor) -> tuple[Tensor, ...]:
        """Take apart what :meth:`join` joined: views of the weights' shapes."""
        return joined.flatten(0, 1).split([len(weight) for weight in self.weights])

    def l1_norms(self, joined: Tensor) -> Tensor:
        """l1 norm of every row: (matrices, entries, width) with size 1 along ``dim``, >= fp32."""
        dtype = torch.promote_types(joined.dtype, torch.float32)
        return torch.linalg.vector_norm(joined, 1, dim=self.dim, keepdim=True, dtype=dtype)


def _portions(groups: Sequence[tuple[Tensor, ...]]) -> Iterable[Sequence[tuple[Tensor, ...]]]:
    """Groups of equal shapes, as many at a time as may be joined."""
    limit = JOINED_ON_CPU if groups[0][0].device.type == "cpu" else JOINED_ON_GPU
    number = max(1, limit // sum(weight.numel() for weight in groups[0]))
    return (groups[start : start + number] for start in range(0, len(groups), number))


def _batches(alike: Mapping[tuple, Sequence[tuple[Tensor, ...]]], dim: int) -> list[RowBatch]:
    """Batches of groups of weights that are alike; the last entry of a key is a row's length."""
    return [
        RowBatch(tuple(chain(*portion)), len(portion), dim, length)
        for (*_, length), groups in alike.items()
        for portion in _portions(groups)
    ]


def attention_rows(blocks: Iterable[AttentionBlock]) -> list[RowBatch]:
    """The rows of Eq. 2: input dimensions, each with all that reads it.

    Args:
        blocks: attention blocks with q, k, v weights of (heads * head_dim, in).
    """
    alike = defaultdict(list)
    for block in blocks:
        for weights in block.input_groups:
            length = len(weights) * block.full_num_heads * block.head_dim
            alike[weights[0].shape, len(weights), length].append(weights)
    return _batches(alike, 1)


def weight_rows(blocks: Iterable[AttentionBlock | MLPBlock]) -> list[RowBatch]:
    """The rows of Eq. 1: those of each weight by itself.

    Args:
        blocks: MLP blocks; for plain l1, where rows do not matter, also attention blocks.
    """
    alike = defaultdict(list)
    for block in blocks:
        for weight, length in zip(block.prunable_weights, block.row_lengths):
            alike[weight.shape, length].append((weight,))
    return _batches(alike, 2)
