"""The attention and MLP blocks of a fairseq model: the only file that knows their names.

A block is found by what it has (q_proj, k_proj, v_proj and out_proj; fc1 and fc2), so any
fairseq Transformer works, wrapped for data-parallel training or not, with LayerDrop
(a dropped layer's block is absent), activation checkpointing or quantisation noise.
A model is searched once and again when a module on the way to a block was replaced.

A model that was cut (see compact) has blocks with fewer heads and neurons than they began
with; what is a share of the whole, such as sparsity, counts the cut ones as zero, by the
``full_`` sizes.

Example, one layer of an encoder with 6 heads of 16 dimensions::

    attention_blocks(model)[0]
      .name         'encoder.layers.0.self_attn'
      .q_proj       Linear(96, 96), rows 16 h ... 16 (h + 1) belong to head h; also k_proj, v_proj
      .out_proj     Linear(96, 96), columns 16 h ... 16 (h + 1) read what head h puts out
      .mlp          the MLPBlock of the same layer: fc1 Linear(96, 192), fc2 Linear(192, 96)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class MLPBlock:
    """One (fc1, fc2) pair: L_in and L_out of the paper."""

    name: str
    fc1: nn.Linear  # weight (ffn_embed_dim, embed_dim): a row is a hidden neuron
    fc2: nn.Linear  # weight (embed_dim, ffn_embed_dim): a row is an output neuron
    activation: Callable[[Tensor], Tensor] | None = None  # between the two

    @property
    def prunable_weights(self) -> tuple[Tensor, ...]:
        """The weights that Eq. 1 penalises and that sparsity counts: fc1, fc2."""
        return self.fc1.weight, self.fc2.weight

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """How long the rows of fc1 and fc2 are, connections to neurons that were cut included."""
        return self.fc1.weight.shape[1], self.full_ffn_embed_dim

    @property
    def full_ffn_embed_dim(self) -> int:
        """Hidden neurons before any were cut."""
        return getattr(self.fc2, "full_in_features", self.fc2.weight.shape[1])

    @property
    def full_sizes(self) -> tuple[int, ...]:
        """Entries of each prunable weight before any were cut."""
        width, outputs = self.fc1.weight.shape[1], self.fc2.weight.shape[0]
        return self.full_ffn_embed_dim * width, outputs * self.full_ffn_embed_dim


@dataclass(frozen=True)
class AttentionBlock:
    """One multi-head attention module; ``kind`` says what attends to what."""

    name: str
    kind: str  # "encoder_self", "decoder_self" or "decoder_cross"
    module: nn.Module
    mlp: MLPBlock | None  # of the same layer

    @property
    def q_proj(self) -> nn.Linear:
        return self.module.q_proj

    @property
    def k_proj(self) -> nn.Linear:
        return self.module.k_proj

    @property
    def v_proj(self) -> nn.Linear:
        return self.module.v_proj

    @property
    def out_proj(self) -> nn.Linear:
        return self.module.out_proj

    @property
    def num_heads(self) -> int:
        return self.module.num_heads

    @property
    def head_dim(self) -> int:
        return self.module.head_dim

    @property
    def full_num_heads(self) -> int:
        """Heads before any were cut."""
        return getattr(self.module, "full_num_heads", self.num_heads)

    @property
    def full_sizes(self) -> tuple[int, ...]:
        """Entries of each prunable weight before any were cut."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        rows = self.full_num_heads * self.head_dim
        return tuple(rows * getattr(p, "full_in_features", p.weight.shape[1]) for p in projections)

    @property
    def prunable_weights(self) -> tuple[Tensor, ...]:
        """The weights that Eq. 2 penalises and that sparsity counts: q, k, v."""
        return self.q_proj.weight, self.k_proj.weight, self.v_proj.weight

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """How long the rows of q, k and v are by themselves."""
        return tuple(weight.shape[1] for weight in self.prunable_weights)

    @property
    def input_groups(self) -> tuple[tuple[Tensor, ...], ...]:
        """The q, k, v weights, together where their columns index the same dimensions.

        In cross-attention Q reads the decoder's dimensions and K, V the encoder's. Equal
        widths are one group, as in the paper; different widths are two.
        """
        q, k, v = self.prunable_weights
        if q.shape[1] == k.shape[1]:
            return ((q, k, v),)
        return (q,), (k, v)

    def head_rows(self, tensor: Tensor) -> Tensor:
        """View a q, k or v weight or bias head by head: (heads * head_dim, ...) -> (heads, n)."""
        return tensor.view(self.num_heads, -1)

    def head_columns(self) -> Tensor:
        """View out_proj's weight head by head: (embed_dim, heads, head_dim)."""
        return self.out_proj.weight.view(-1, self.num_heads, self.head_dim)


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside data-parallel wrappers."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


def _mlp_block(name: str, layer: nn.Module) -> MLPBlock | None:
    if isinstance(getattr(layer, "fc1", None), nn.Module) and hasattr(layer, "fc2"):
        return MLPBlock(name, layer.fc1, layer.fc2, getattr(layer, "activation_fn", None))
    return None


def _kind(name: str) -> str:
    if name.endswith("encoder_attn"):
        return "decoder_cross"
    return "encoder_self" if name.startswith("encoder") else "decoder_self"


@dataclass(frozen=True)
class RemovedAttention:
    """An attention module whose heads were all cut out: only a bias is left."""

    name: str
    full_num_heads: int
    full_size: int  # entries of q, k and v before the cut


class _Blocks:
    """What a model holds, in forward order, and whether it still does."""

    def __init__(self, model: nn.Module) -> None:
        self.attention: list[AttentionBlock] = []
        self.mlps: list[MLPBlock] = []
        self.removed: list[RemovedAttention] = []
        for name, module in model.named_modules():
            if all(hasattr(module, projection) for projection in _PROJECTIONS):
                parent = name.rpartition(".")[0]
                mlp = _mlp_block(parent, model.get_submodule(parent))
                self.attention.append(AttentionBlock(name, _kind(name), module, mlp))
            elif hasattr(module, "full_attention_size"):
                sizes = (module.full_num_heads, module.full_attention_size)
                self.removed.append(RemovedAttention(name, *sizes))
            mlp = _mlp_block(name, module)
            self.mlps += [mlp] if mlp else []
        names = [block.name for block in self.attention]
        names += [f"{mlp.name}.{linear}" for mlp in self.mlps for linear in ("fc1", "fc2")]
        self._ways = _ways_to(model, names)

    def are_current(self, model: nn.Module) -> bool:
        """Whether all blocks are still where they were found."""
        passed = [model]
        for parent, name, module in self._ways:
            if getattr(passed[parent], name, None) is not module:
                return False
            passed.append(module)
        return True


def _ways_to(model: nn.Module, names: list[str]) -> list[tuple[int, str, nn.Module]]:
    """All modules on the way to these, parents first, the model itself left out.

    Returns:
        (parent, name, module): what the parent calls it; a parent is the place of its own
        entry plus 1, or 0 for the model. No reference to the model, which may be dropped.
    """
    places, ways = {"": 0}, []
    for name in names:
        way = ""
        for child in name.split("."):
            parent, way = way, f"{way}.{child}" if way else child
            if way not in places:
                ways.append((places[parent], child, model.get_submodule(way)))
                places[way] = len(ways)
    return ways


_FOUND: WeakKeyDictionary[nn.Module, _Blocks] = WeakKeyDictionary()


def _blocks(model: nn.Module) -> _Blocks:
    model = _unwrap(model)
    found = _FOUND.get(model)
    if found is None or not found.are_current(model):
        found = _FOUND[model] = _Blocks(model)
    return found


def attention_blocks(model: nn.Module) -> list[AttentionBlock]:
    """All attention modules in forward order: encoder, then per decoder layer self, cross.

    Args:
        model: a fairseq model, wrapped or not.

    Returns:
        One block per module; empty when the model has none.
    """
    return list(_blocks(model).attention)


def mlp_blocks(model: nn.Module) -> list[MLPBlock]:
    """All (fc1, fc2) pairs in forward order: encoder, then decoder.

    Args:
        model: a fairseq model, wrapped or not.

    Returns:
        One block per layer; empty when the model has none.
    """
    return list(_blocks(model).mlps)


def removed_attention(model: nn.Module) -> list[RemovedAttention]:
    """The attention modules of a cut model that have no head left, in forward order.

    Args:
        model: a fairseq model, wrapped or not.
    """
    return list(_blocks(model).removed)


def full_num_heads(model: nn.Module) -> int:
    """Heads of the whole model before any were cut.

    Args:
        model: a fairseq model, wrapped or not.
    """
    found = _blocks(model)
    return sum(block.full_num_heads for block in (*found.attention, *found.removed))


def prunable_weights(blocks: Iterable[AttentionBlock | MLPBlock]) -> list[Tensor]:
    """The penalised and counted weights of all blocks, block by block."""
    return [weight for block in blocks for weight in block.prunable_weights]


def concatenated_heads(block: AttentionBlock) -> Tensor:
    """A_H of every head: (heads, head_dim * (q + k + v input widths)), in fp32."""
    rows = [block.head_rows(weight) for weight in block.prunable_weights]
    return torch.cat(rows, dim=1).float()
