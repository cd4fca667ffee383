"""What the report shows of one model, as small arrays, so that the model itself can go."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import shapes
from neuroprune_fairseq.compact.modules import SelectedLinear
from neuroprune_fairseq.redundancy import head_importance
from neuroprune_fairseq.sparsity import head_mask, measure
from neuroprune_fairseq.structure import (
    AttentionBlock,
    MLPBlock,
    attention_blocks,
    attention_kind,
    mlp_blocks,
)

# A pattern has at most this many cells per side; the longer side of an MLP matrix twice as many.
CELLS = 64
LEVELS = 15  # shades of a cell above empty
MLP_PARTS = ("fc1", "fc2")


@dataclass(frozen=True)
class Pattern:
    """Where a matrix has weights left."""

    shape: tuple[int, int]  # of the matrix
    full_shape: tuple[int, int]  # before anything was cut
    cells: np.ndarray  # (<= CELLS or 2 CELLS, the same), uint8: share of nonzeros, 0 ... LEVELS


@dataclass(frozen=True)
class AttentionFacts:
    """One attention module."""

    name: str
    kind: str
    num_heads: int  # of the architecture, before anything was cut
    heads_kept: int
    head_mask: np.ndarray | None  # (num_heads,), bool; None: cut, and nobody noted which
    importance: np.ndarray | None  # (num_heads,), Section 5.3; None where head_mask is
    patterns: tuple[Pattern, ...]  # Q, K, V, rows are input dimensions; () without heads

    @property
    def layer(self) -> int:
        """Number of its layer in encoder or decoder."""
        return int(self.name.split(".")[-2])

    @property
    def heads_removed(self) -> int:
        return self.num_heads - self.heads_kept


@dataclass(frozen=True)
class MLPFacts:
    """One (fc1, fc2) pair; dictionaries by MLP_PARTS."""

    name: str
    degrees: dict[str, np.ndarray]  # (rows,), long: nonzero entries of each row
    patterns: dict[str, Pattern]


@dataclass(frozen=True)
class ModelFacts:
    """One model."""

    label: str
    method: str
    is_compact: bool
    parameters: int
    num_updates: int | None
    sparsity: dict[str, Any]  # as sparsity.measure returns it
    attention: tuple[AttentionFacts, ...] = field(repr=False)
    mlps: tuple[MLPFacts, ...] = field(repr=False)

    @property
    def heads_total(self) -> int:
        """Of the architecture, before anything was cut."""
        return sum(module.num_heads for module in self.attention)

    @property
    def heads_kept(self) -> int:
        return sum(module.heads_kept for module in self.attention)

    @property
    def heads_removed(self) -> int:
        return self.heads_total - self.heads_kept

    @property
    def knows_positions(self) -> bool:
        """Whether it is known which heads were removed."""
        return all(module.head_mask is not None for module in self.attention)


def shares(nonzero: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Share of True in the cells of a grid.

    Args:
        nonzero: (rows, columns), bool.
        cells: most cells per side; a cell is as small as that allows, and of whole entries.

    Returns:
        (<= cells[0], <= cells[1]), float64; the last row and column may cover less.
    """
    counts, sizes = nonzero.astype(np.int64), np.ones(nonzero.shape, dtype=np.int64)
    for axis, most in enumerate(cells):
        starts = np.arange(0, nonzero.shape[axis], -(-nonzero.shape[axis] // most) or 1)
        counts, sizes = (np.add.reduceat(array, starts, axis=axis) for array in (counts, sizes))
    return counts / sizes


def make_pattern(
    weight: Tensor, full_shape: tuple[int, int], cells: tuple[int, int] = (CELLS, CELLS)
) -> Pattern:
    """The pattern of a matrix; a cell is 0 only where all its entries are zero.

    Args:
        weight: (rows, columns), at least one of each.
        full_shape: rows and columns before anything was cut.
        cells: most cells per side.
    """
    levels = np.ceil(shares(weight.ne(0).cpu().numpy(), cells) * LEVELS)
    return Pattern(tuple(weight.shape), full_shape, levels.astype(np.uint8))


def _full_weight(linear: nn.Linear) -> Tensor:
    return linear.full_weight() if isinstance(linear, SelectedLinear) else linear.weight


def _attention_facts(
    name: str, block: AttentionBlock | None, heads: int, kept: list[int] | None
) -> AttentionFacts:
    """Facts of a module.

    Args:
        name: of the module.
        block: None where a compact model has no heads left.
        heads: how many the architecture has.
        kept: which are left of a module that was cut, None where nobody noted it.
    """
    mask = head_mask(block).numpy() if block else np.zeros(0, dtype=bool)
    scores = head_importance(block).numpy() if block else np.zeros(0, dtype=np.float32)
    patterns = _attention_patterns(block, heads) if block else ()
    places = list(range(heads)) if len(mask) == heads else kept
    if not len(mask):
        places = []
    full_mask = full_scores = None
    if places is not None and len(places) == len(mask):
        full_mask, full_scores = np.zeros(heads, dtype=bool), np.zeros(heads, dtype=np.float32)
        full_mask[places], full_scores[places] = mask, scores
    kind, count = attention_kind(name), int(mask.sum())
    return AttentionFacts(name, kind, heads, count, full_mask, full_scores, patterns)


def _attention_patterns(block: AttentionBlock, heads: int) -> tuple[Pattern, ...]:
    """Q, K and V as the paper writes them, of a module that once had so many heads."""
    weights = [_full_weight(p).T for p in (block.q_proj, block.k_proj, block.v_proj)]
    return tuple(make_pattern(w, (w.shape[0], heads * block.head_dim)) for w in weights)


def _mlp_facts(block: MLPBlock, neurons: int) -> MLPFacts:
    """Facts of an MLP that once had so many hidden neurons."""
    fc1, fc2 = block.prunable_weights
    patterns = {
        "fc1": make_pattern(fc1, (neurons, fc1.shape[1]), (2 * CELLS, CELLS)),
        "fc2": make_pattern(fc2, (fc2.shape[0], neurons), (CELLS, 2 * CELLS)),
    }
    degrees = {"fc1": fc1.ne(0).sum(dim=1), "fc2": fc2.ne(0).sum(dim=1)}
    return MLPFacts(block.name, {part: d.cpu().numpy() for part, d in degrees.items()}, patterns)


@torch.no_grad()
def take_facts(
    model: nn.Module,
    settings: Namespace,
    label: str,
    method: str,
    num_updates: int | None = None,
    kept: dict[str, list[int]] | None = None,
) -> ModelFacts:
    """Everything that the report shows of a model.

    Args:
        model: a fairseq Transformer, compact or not, on the CPU; exact zeros count as zero.
        settings: its model settings, which know how many heads there were.
        label: how the report calls it.
        method: of the frontier's methods, or "dense".
        num_updates: how long it was trained.
        kept: of a compact model, which heads of a module are left, as the run's log notes it.
    """
    is_compact = hasattr(settings, "neuroprune_shapes")
    attention = {block.name: block for block in attention_blocks(model)}
    modules, mlps = [], []
    for name in shapes(model):
        if name.endswith("attn"):
            block = attention.get(name)
            heads = _size(settings, name, "attention_heads") if is_compact else block.num_heads
            modules.append(_attention_facts(name, block, heads, (kept or {}).get(name)))
    for block in mlp_blocks(model):
        width = block.fc1.out_features
        neurons = _size(settings, block.name, "ffn_embed_dim") if is_compact else width
        mlps.append(_mlp_facts(block, neurons))
    return ModelFacts(
        label=label,
        method=method,
        is_compact=is_compact,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_updates=num_updates,
        sparsity=measure(model),
        attention=tuple(modules),
        mlps=tuple(mlps),
    )


def _size(settings: Namespace, name: str, size: str) -> int:
    """A size of the encoder or decoder that a module of this name stands in."""
    stack = "encoder" if name.startswith("encoder") else "decoder"
    return getattr(settings, f"{stack}_{size}")
