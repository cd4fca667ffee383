"""What of a model is there, and zeroing what a smaller shape leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.cost_table import LayerShape, layer_shapes
from neuroprune_fairseq.compact.shape_search import LayerOptions, lost_by_number_kept
from neuroprune_fairseq.method.part_importance import LAYER, PartImportance
from neuroprune_fairseq.method.pruning import (
    pruned_heads,
    pruned_layers,
    pruned_neurons,
    zero_heads_,
    zero_layers_,
    zero_neurons_,
)
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

PARTS = ("heads", "neurons", "layers")


def _living(total: int, gone: Tensor) -> Tensor:
    """The rest of range(total), ascending, on the CPU, where what goes is chosen."""
    alive = torch.ones(total, dtype=torch.bool, device="cpu")
    alive[gone.cpu()] = False
    return alive.nonzero().flatten()


@dataclass(frozen=True)
class Left:
    """How far a schedule has come."""

    heads: int
    neurons: int
    no_layers: bool  # those that go are gone


class Parts:
    """What of a model is there: heads, neurons and layers that are not pruned, by name."""

    def __init__(self, model: nn.Module) -> None:
        """Read it off the weights.

        Args:
            model: a fairseq model.
        """
        self.model = model
        gone = set(pruned_layers(model))
        self.shapes = [shape for shape in layer_shapes(model) if shape.name not in gone]
        names = {shape.name for shape in self.shapes}
        self.attention = {
            block.name: block
            for block in attention_blocks(model)
            if block.name.rpartition(".")[0] in names
        }
        self.mlps = {mlp.name: mlp for mlp in mlp_blocks(model) if mlp.name in names}
        self.heads = {
            name: _living(block.num_heads, pruned_heads(block))
            for name, block in self.attention.items()
        }
        self.neurons = {
            name: _living(mlp.fc1.out_features, pruned_neurons(mlp))
            for name, mlp in self.mlps.items()
        }
        layers = {shape.name: shape for shape in self.shapes}
        for name, block in self.attention.items():
            layers[name.rpartition(".")[0]].heads[block.kind] = len(self.heads[name])
        for name, neurons in self.neurons.items():
            layers[name].neurons = len(neurons)

    @property
    def num_heads(self) -> int:
        """Of the whole model."""
        return sum(map(len, self.heads.values()))

    @property
    def num_neurons(self) -> int:
        """Hidden neurons of the whole model."""
        return sum(map(len, self.neurons.values()))

    def options(self, importance: PartImportance, may_go: Sequence[str]) -> list[LayerOptions]:
        """What may become of the layers, and what that loses.

        Args:
            importance: of the model's parts.
            may_go: some of PARTS.
        """
        constant = np.zeros(1)  # of modules that have no head left
        found = {s.name: LayerOptions(s, dict.fromkeys(s.heads, constant)) for s in self.shapes}
        for name, heads in self.heads.items():
            lost = lost_by_number_kept(self._values(importance, name)[heads])
            kind = self.attention[name].kind
            if "heads" not in may_go:
                lost[:-1] = float("inf")
            found[name.rpartition(".")[0]].heads_lost[kind] = lost
        for name, neurons in self.neurons.items():
            lost = lost_by_number_kept(self._values(importance, name)[neurons])
            if "neurons" not in may_go:
                lost[:-1] = float("inf")
            found[name].neurons_lost = lost
        if "layers" in may_go:
            for name, option in found.items():
                option.removal_lost = float(importance.values.get(name + LAYER, 0.0))
        return list(found.values())

    def _values(self, importance: PartImportance, name: str) -> Tensor:
        known = importance.values.get(name)
        if known is not None:
            return known.cpu()
        block = self.attention.get(name)
        number = block.num_heads if block else self.mlps[name].fc1.out_features
        return torch.ones(number, device="cpu")

    def shrink_(self, goal: Sequence[LayerShape], importance: PartImportance, left: Left) -> None:
        """Zero the least important of what the goal leaves out, in place.

        Args:
            goal: layers that stay, with what they keep.
            importance: of the model's parts.
            left: how many of the heads and neurons to leave, and whether layers go.
        """
        shapes = {shape.name: shape for shape in goal}
        keep = {
            name: shapes[layer].heads[block.kind] if layer in shapes else 0
            for name, block in self.attention.items()
            for layer in [name.rpartition(".")[0]]
        }
        for name, heads in self._to_zero(self.heads, keep, importance, left.heads).items():
            zero_heads_(self.attention[name], heads)
        keep = {name: shapes[name].neurons if name in shapes else 0 for name in self.mlps}
        for name, neurons in self._to_zero(self.neurons, keep, importance, left.neurons).items():
            zero_neurons_(self.mlps[name], neurons)
        if left.no_layers:
            zero_layers_(self.model, [s.name for s in self.shapes if s.name not in shapes])

    def _to_zero(
        self,
        alive: Mapping[str, Tensor],
        keep: Mapping[str, int],
        importance: PartImportance,
        left: int,
    ) -> dict[str, Tensor]:
        """Which parts go, by name, until as many are left in all."""
        going = []
        for name, indices in alive.items():
            values = self._values(importance, name)[indices]
            order = values.argsort(stable=True)[: len(indices) - keep[name]].tolist()
            going += [(float(values[i]), name, int(indices[i])) for i in order]
        surplus = sum(map(len, alive.values())) - left
        found: dict[str, list[int]] = {}
        for _, name, index in sorted(going)[: max(0, surplus)]:
            found.setdefault(name, []).append(index)
        device = next(self.model.parameters()).device
        return {name: torch.tensor(sorted(found[name]), device=device) for name in found}
