"""The attention and MLP blocks of a fairseq model: the only file that knows their names.

A block is found by what it has (q_proj, k_proj, v_proj and out_proj; fc1 and fc2), so any
fairseq Transformer works: encoder-decoder, decoder or encoder alone, several of them that share
layers; wrapped for data-parallel training or not, with LayerDrop, activation checkpointing
or quantisation noise. The search reads no weight and takes a fraction of a millisecond.

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

import torch
from torch import Tensor, nn

_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "out_proj"}
_LAYER_PARTS = {"self_attn", "encoder_attn", "fc1", "fc2"}  # and layer norms
_LAYER_PARTS |= {"self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"}


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
    def full_size(self) -> int:
        """Entries of both prunable weights before any were cut."""
        return self.full_ffn_embed_dim * (self.fc1.weight.shape[1] + self.fc2.weight.shape[0])


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
    def full_size(self) -> int:
        """Entries of all prunable weights before any were cut."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        columns = sum(getattr(p, "full_in_features", p.weight.shape[1]) for p in projections)
        return self.full_num_heads * self.head_dim * columns

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
    if "fc1" in layer._modules and "fc2" in layer._modules:
        return MLPBlock(name, layer.fc1, layer.fc2, getattr(layer, "activation_fn", None))
    return None


def attention_kind(name: str) -> str:
    """What attends to what in the module of this name, as in :attr:`AttentionBlock.kind`."""
    parts = name.split(".")
    if parts[-1] == "encoder_attn":
        return "decoder_cross"
    return "encoder_self" if "encoder" in parts else "decoder_self"


@dataclass(frozen=True)
class RemovedAttention:
    """An attention module whose heads were all cut out: a bias is left, or not even the layer."""

    name: str
    full_num_heads: int
    full_size: int  # entries of q, k and v before the cut
    num_heads: int = 0


@dataclass(frozen=True)
class RemovedMLP:
    """The MLP of a layer that was cut out as a whole."""

    name: str  # of the layer
    full_ffn_embed_dim: int
    full_size: int  # entries of fc1 and fc2 before the cut


@dataclass(frozen=True)
class LayerBlock:
    """One layer that can go as a whole: all that it adds to the residual path is known."""

    name: str
    module: nn.Module
    attention: tuple[AttentionBlock | RemovedAttention, ...]
    mlp: MLPBlock

    @property
    def is_pre_norm(self) -> bool:
        """Whether layer norms stand before the sublayers: a layer that adds nothing is x -> x."""
        return self.module.normalize_before

    @property
    def output_biases(self) -> list[Tensor]:
        """What the layer adds to the residual path when no head and no hidden neuron does."""
        modules = [self.module.get_submodule(b.name.rpartition(".")[2]) for b in self.attention]
        outputs = [getattr(module, "out_proj", module) for module in modules] + [self.mlp.fc2]
        return [output.bias for output in outputs if output.bias is not None]


def all_attention(model: nn.Module) -> list[AttentionBlock | RemovedAttention]:
    """All attention modules in forward order, those of a cut model without heads among them.

    Args:
        model: a fairseq model, wrapped or not.

    Returns:
        One block per module; a module that several parts of the model share is one block, under
        the first of its names.
    """
    modules = dict(_unwrap(model).named_modules())
    found: list[AttentionBlock | RemovedAttention] = []
    for name, module in modules.items():
        if "q_proj" in module._modules and module._modules.keys() >= _PROJECTIONS:
            parent = name.rpartition(".")[0]
            mlp = _mlp_block(parent, modules[parent])
            found.append(AttentionBlock(name, attention_kind(name), module, mlp))
        elif "full_attention_size" in vars(module):
            found.append(RemovedAttention(name, module.full_num_heads, module.full_attention_size))
        elif "full_attention" in vars(module):  # a layer that is gone
            of_layer = module.full_attention.items()
            found += [RemovedAttention(f"{name}.{part}", *sizes) for part, sizes in of_layer]
    return found


def attention_blocks(model: nn.Module) -> list[AttentionBlock]:
    """All attention modules that have heads, as :func:`all_attention`.

    Args:
        model: a fairseq model, wrapped or not.

    Returns:
        In forward order: encoder, then per decoder layer self, cross; empty when there are none.
    """
    return [block for block in all_attention(model) if isinstance(block, AttentionBlock)]


def mlp_blocks(model: nn.Module) -> list[MLPBlock]:
    """All (fc1, fc2) pairs in forward order: encoder, then decoder.

    Args:
        model: a fairseq model, wrapped or not.

    Returns:
        One block per layer, a shared layer once; empty when the model has none.
    """
    blocks = (_mlp_block(name, module) for name, module in _unwrap(model).named_modules())
    return [block for block in blocks if block]


def removed_mlps(model: nn.Module) -> list[RemovedMLP]:
    """The MLPs of the layers that were cut out of a model as a whole, in forward order.

    Args:
        model: a fairseq model, wrapped or not.
    """
    modules = _unwrap(model).named_modules()
    return [RemovedMLP(name, *vars(m)["full_mlp"]) for name, m in modules if "full_mlp" in vars(m)]


def layer_blocks(model: nn.Module) -> list[LayerBlock]:
    """The layers that can go as a whole, in forward order.

    Those of fairseq's Transformers can, whose parameters all belong to attention, the MLP and
    layer norms; not with --scale-attn or --scale-resids, adapters or convolutions.

    Args:
        model: a fairseq model, wrapped or not.
    """
    attention: dict[str, list[AttentionBlock | RemovedAttention]] = {}
    for block in all_attention(model):
        attention.setdefault(block.name.rpartition(".")[0], []).append(block)
    modules, found = dict(_unwrap(model).named_modules()), []
    for mlp in mlp_blocks(model):
        layer, blocks = modules[mlp.name], attention.get(mlp.name)
        parts = {name.partition(".")[0] for name, _ in layer.named_parameters()}
        if blocks and parts <= _LAYER_PARTS and hasattr(layer, "normalize_before"):
            found.append(LayerBlock(mlp.name, layer, tuple(blocks), mlp))
    return found


def full_num_heads(model: nn.Module) -> int:
    """Heads of the whole model before any were cut.

    Args:
        model: a fairseq model, wrapped or not.
    """
    return sum(block.full_num_heads for block in all_attention(model))


def prunable_weights(blocks: Iterable[AttentionBlock | MLPBlock]) -> list[Tensor]:
    """The penalised and counted weights of all blocks, block by block."""
    return [weight for block in blocks for weight in block.prunable_weights]


def concatenated_heads(block: AttentionBlock) -> Tensor:
    """A_H of every head: (heads, head_dim * (q + k + v input widths)), in fp32."""
    rows = [block.head_rows(weight) for weight in block.prunable_weights]
    return torch.cat(rows, dim=1).float()
