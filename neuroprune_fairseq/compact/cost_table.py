"""What a shape of a model costs: a table of what its parts cost, in any one unit.

A shape is what is left of every layer: heads by module and hidden neurons. The cost is a sum over
parts, so that a search can weigh one part against another::

    cost = fixed + sum over layers (layer + sum over attention modules (heads) + MLP (neurons))

A layer that is gone is not among the layers and costs nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from neuroprune_fairseq.compact.cost import attention_flops, flops_per_token, linear_flops
from neuroprune_fairseq.structure import (
    AttentionBlock,
    MLPBlock,
    all_attention,
    attention_blocks,
    attention_kind,
    mlp_blocks,
    removed_mlps,
)


@dataclass
class LayerShape:
    """What is left of one layer.

    Example: ``LayerShape("decoder.layers.3", {"decoder_self": 2, "decoder_cross": 6}, 48)``.
    """

    name: str
    heads: dict[str, int] = field(default_factory=dict)  # by kind; 0 where a constant is left
    neurons: int = 0

    @property
    def stack(self) -> str:
        """The layers that it stands among: "decoder.layers"."""
        return self.name.rpartition(".")[0]

    @property
    def side(self) -> str:
        """Which part of a table prices it: "encoder" or "decoder"."""
        return "encoder" if "encoder" in self.name.split(".") else "decoder"


@dataclass(frozen=True)
class CostTable:
    """What parts of a model cost.

    Args:
        unit: of all costs, such as "parameters" or "ms per sentence".
        fixed: what no pruning touches: embeddings, output layer, search.
        layer: by side, "encoder" or "decoder": what a layer costs besides its modules.
        attention: by kind ("encoder_self", "decoder_self", "decoder_cross"): what a module with
            0, 1, 2 ... heads costs.
        mlp: by side: (hidden neurons, cost), ascending, from 0 neurons; straight lines between.
        per_stack: an engine that knows one number of heads for a stack: every module of it costs
            as the one with most heads.
        settings: how it was measured; empty for one that was counted.
    """

    unit: str
    fixed: float
    layer: Mapping[str, float]
    attention: Mapping[str, Sequence[float]]
    mlp: Mapping[str, Sequence[tuple[int, float]]]
    per_stack: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def neurons_cost(self, side: str, neurons: int) -> float:
        """What an MLP with this many hidden neurons costs."""
        points = self.mlp[side]
        after = min(max(1, bisect_left(points, (neurons,))), len(points) - 1)
        (low, low_cost), (high, high_cost) = points[after - 1 : after + 1]
        return low_cost + (high_cost - low_cost) * (neurons - low) / (high - low)

    def layer_cost(self, shape: LayerShape) -> float:
        """What a layer costs whose modules have these heads."""
        attention = sum(self.attention[kind][heads] for kind, heads in shape.heads.items())
        mlp = self.neurons_cost(shape.side, shape.neurons) if shape.side in self.mlp else 0.0
        return self.layer.get(shape.side, 0.0) + attention + mlp

    def cost(self, shapes: Sequence[LayerShape]) -> float:
        """What a model of these layers costs."""
        most: dict[str, int] = {}
        for shape in shapes:
            most[shape.stack] = max(most.get(shape.stack, 1), *shape.heads.values(), 1)
        total = self.fixed
        for shape in shapes:
            padded = dict.fromkeys(shape.heads, most[shape.stack])
            heads = padded if self.per_stack else shape.heads
            total += self.layer_cost(LayerShape(shape.name, heads, shape.neurons))
        return total


def layer_shapes(model: nn.Module) -> list[LayerShape]:
    """The layers that a model has, in forward order, without those that are gone.

    Args:
        model: a fairseq model, compact or not, wrapped or not.
    """
    layers: dict[str, LayerShape] = {}
    gone = {mlp.name for mlp in removed_mlps(model)}
    for block in all_attention(model):
        layer = block.name.rpartition(".")[0]
        shape = layers.setdefault(layer, LayerShape(layer))
        shape.heads[attention_kind(block.name)] = block.num_heads
    for mlp in mlp_blocks(model):
        shape = layers.setdefault(mlp.name, LayerShape(mlp.name))
        shape.neurons = mlp.fc1.out_features
    return [shape for name, shape in layers.items() if name not in gone]


def _parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _per_head(cost: float, block: AttentionBlock, without: float = 0.0) -> list[float]:
    """Costs of 0, 1, ... heads where each costs the same."""
    of_a_head = (cost - without) / block.num_heads
    return [without + of_a_head * heads for heads in range(block.full_num_heads + 1)]


def _per_neuron(cost: float, mlp: MLPBlock, without: float = 0.0) -> list[tuple[int, float]]:
    whole = mlp.full_ffn_embed_dim
    return [(0, without), (whole, without + (cost - without) * whole / mlp.fc1.out_features)]


def parameter_table(model: nn.Module) -> CostTable:
    """Parameters by part.

    Args:
        model: not wrapped. Modules of one kind are taken to be of one width, as fairseq's are.
    """
    attention, mlps = {}, {}
    for block in attention_blocks(model):
        bias = block.out_proj.bias
        left = 0 if bias is None else bias.numel()
        attention[block.kind] = _per_head(_parameters(block.module), block, left)
    layers = {shape.name: shape for shape in layer_shapes(model)}
    modules = dict(model.named_modules())
    for mlp in mlp_blocks(model):
        bias = mlp.fc2.bias
        left = 0 if bias is None else bias.numel()
        mlps[layers[mlp.name].side] = _per_neuron(_parameters(mlp.fc1, mlp.fc2), mlp, left)
    rest = {}
    for name, shape in layers.items():
        parts = [module for child, module in modules[name].named_children()]
        inside = CostTable("", 0, {}, attention, mlps).layer_cost(shape)
        rest[shape.side] = _parameters(*parts) - inside
    table = CostTable("parameters", 0, rest, attention, mlps)
    fixed = _parameters(model) - table.cost(list(layers.values()))
    return CostTable("parameters", fixed, rest, attention, mlps)


def flops_table(model: nn.Module, length: int = 25) -> CostTable:
    """Floating-point operations of a source and a target token together, by part.

    Args:
        model: not wrapped.
        length: as in :func:`flops_per_token`.
    """
    attention, mlps = {}, {}
    for block in attention_blocks(model):
        attention[block.kind] = _per_head(sum(attention_flops(block, length)), block)
    shapes = layer_shapes(model)
    sides = {shape.name: shape.side for shape in shapes}
    for mlp in mlp_blocks(model):
        mlps[sides[mlp.name]] = _per_neuron(linear_flops(mlp.fc1, mlp.fc2), mlp)
    table = CostTable("FLOPs per token", 0, {}, attention, mlps)
    fixed = sum(flops_per_token(model, length)) - table.cost(shapes)
    return CostTable("FLOPs per token", fixed, {}, attention, mlps)
