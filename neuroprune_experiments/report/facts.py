"""What the report shows of one model, as small arrays, so that the model itself can go."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune_experiments.frontier.methods import method_of
from neuroprune_experiments.report.runs import Run, read_run
from neuroprune_fairseq.compact.cutting import shapes
from neuroprune_fairseq.compact.modules import SelectedLinear
from neuroprune_fairseq.compact.sizes import head_numbers, sizes_in
from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.errors import refusing
from neuroprune_fairseq.files.models import model_of, settings_of
from neuroprune_fairseq.method.pruning import zero_small_weights_
from neuroprune_fairseq.method.redundancy import head_importance
from neuroprune_fairseq.method.sparsity import head_mask, measure
from neuroprune_fairseq.structure import (
    AttentionBlock,
    MLPBlock,
    RemovedAttention,
    RemovedMLP,
    all_attention,
    attention_kind,
    mlp_blocks,
    removed_mlps,
)

# A pattern has at most this many cells per side; the longer side of an MLP matrix twice as many.
CELLS = 64
LEVELS = 15  # shades of a cell above empty


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
    head_mask: np.ndarray  # (num_heads,), bool; False: pruned or cut
    importance: np.ndarray  # (num_heads,), Section 5.3; 0 where cut
    patterns: tuple[Pattern, ...]  # Q, K, V, rows are input dimensions; () without heads

    @property
    def layer(self) -> int:
        """Number of its layer in encoder or decoder."""
        return int(self.name.split(".")[-2])

    @property
    def heads_kept(self) -> int:
        return int(self.head_mask.sum())

    @property
    def heads_removed(self) -> int:
        return self.num_heads - self.heads_kept


@dataclass(frozen=True)
class MLPFacts:
    """One (fc1, fc2) pair; dictionaries by "fc1" and "fc2"."""

    name: str
    degrees: dict[str, np.ndarray]  # (rows before any cut,), long: nonzero entries of each
    patterns: dict[str, Pattern]


@dataclass(frozen=True)
class ModelFacts:
    """One model."""

    label: str
    method: str  # of the frontier's methods, or "dense"
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
    """The pattern of a (rows, columns) matrix; a cell is 0 only where all its entries are zero."""
    levels = np.ceil(shares(weight.ne(0).cpu().numpy(), cells) * LEVELS)
    return Pattern(tuple(weight.shape), full_shape, levels.astype(np.uint8))


def _full_weight(linear: nn.Linear) -> Tensor:
    return linear.full_weight() if isinstance(linear, SelectedLinear) else linear.weight


def _attention_facts(block: AttentionBlock | RemovedAttention, kept: list[int]) -> AttentionFacts:
    """Facts of a module; ``kept`` are the heads that were not cut."""
    heads, patterns = block.full_num_heads, ()
    mask, scores = np.zeros(heads, dtype=bool), np.zeros(heads, dtype=np.float32)
    if isinstance(block, AttentionBlock):
        mask[kept], scores[kept] = head_mask(block).numpy(), head_importance(block).numpy()
        weights = [_full_weight(p).T for p in (block.q_proj, block.k_proj, block.v_proj)]
        patterns = tuple(make_pattern(w, (w.shape[0], heads * block.head_dim)) for w in weights)
    kind = attention_kind(block.name)
    return AttentionFacts(block.name, kind, heads, mask, scores, patterns)


def _all_mlps(model: nn.Module) -> list[MLPBlock | RemovedMLP]:
    """In forward order, with those of layers that are gone."""
    blocks = {block.name: block for block in [*mlp_blocks(model), *removed_mlps(model)]}
    return [blocks[name] for name in shapes(model) if name in blocks]


def _mlp_facts(block: MLPBlock | RemovedMLP) -> MLPFacts:
    """Facts of an MLP; neurons that were cut out have no connections."""
    neurons = block.full_ffn_embed_dim
    if isinstance(block, MLPBlock):
        fc1, fc2 = block.prunable_weights
    else:  # as if one neuron had been left, which is zero
        fc1 = torch.zeros(1, block.full_size // neurons // 2)
        fc2 = fc1.T
    degrees = {"fc1": fc1.ne(0).sum(dim=1), "fc2": fc2.ne(0).sum(dim=1)}
    degrees["fc1"] = nn.functional.pad(degrees["fc1"], (0, neurons - len(fc1)))
    patterns = {
        "fc1": make_pattern(fc1, (neurons, fc1.shape[1]), (2 * CELLS, CELLS)),
        "fc2": make_pattern(fc2, (fc2.shape[0], neurons), (CELLS, 2 * CELLS)),
    }
    return MLPFacts(block.name, {part: d.cpu().numpy() for part, d in degrees.items()}, patterns)


@torch.no_grad()
def take_facts(
    model: nn.Module, settings: Namespace, label: str, num_updates: int | None = None
) -> ModelFacts:
    """Everything that the report shows of a model.

    Args:
        model: a fairseq Transformer, compact or not, on the CPU; exact zeros count as zero.
        settings: its model settings; of a compact model they say which heads are left.
        label: how the report calls it.
        num_updates: how long it was trained.
    """
    kept = head_numbers(settings, model)
    return ModelFacts(
        label=label,
        method=method_of(settings),
        is_compact=bool(sizes_in(settings)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_updates=num_updates,
        sparsity=measure(model),
        attention=tuple(_attention_facts(b, kept[b.name]) for b in all_attention(model)),
        mlps=tuple(map(_mlp_facts, _all_mlps(model))),
    )


def read_model(path: Path, label: str, tolerance: float) -> tuple[ModelFacts, Run | None]:
    """Read a checkpoint, and the run log beside it where there is one.

    Args:
        path: a checkpoint of fairseq's transformer, compact or not.
        label: how the report calls it.
        tolerance: prunable weights with |w| < tolerance count as zero.

    Returns:
        The facts of the model, and its run up to there.
    """
    state = read_checkpoint(path)
    num_updates = (state.get("optimizer_history") or [{}])[-1].get("num_updates")
    settings = settings_of(state, str(path))
    has_log = (path.parent / run_log.FILE_NAME).exists()
    run = read_run(path.parent, label, num_updates) if has_log else None
    model = model_of(state, str(path))
    zero_small_weights_(model, tolerance)
    with refusing(f"{path}: weights and settings do not fit; take a checkpoint that is whole"):
        return take_facts(model, settings, label, num_updates), run
