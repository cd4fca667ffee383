"""What of a model is there, and zeroing what a smaller shape leaves out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.cost_table import LayerShape, layer_shapes
from neuroprune_fairseq.compact.shape_search import LayerOptions, lost_by_number_kept
from neuroprune_fairseq.method.part_importance import PartImportance
from neuroprune_fairseq.method.pruning import (
    pruned_heads,
    pruned_layers,
    pruned_neurons,
    zero_heads_,
    zero_layers_,
    zero_neurons_,
)
from neuroprune_fairseq.structure import attention_blocks, layer_blocks, mlp_blocks

PARTS = ("heads", "neurons", "layers")


def _living(total: int, gone: Tensor) -> Tensor:
    """The rest of range(total), ascending, on the CPU, where what goes is chosen."""
    alive = torch.ones(total, dtype=torch.bool, device="cpu")
    alive[gone.cpu()] = False
    return alive.nonzero().flatten()


def number_in(shapes: Sequence[LayerShape], part: str) -> int:
    """How many "heads", "neurons" or "layers" these layers have."""
    if part == "layers":
        return len(shapes)
    return sum(s.neurons if part == "neurons" else sum(s.heads.values()) for s in shapes)


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
    def removable(self) -> list[str]:
        """The layers that can go as a whole."""
        names = {shape.name for shape in self.shapes}
        return [layer.name for layer in layer_blocks(self.model) if layer.name in names]

    def importance_by_layer(self, importance: PartImportance) -> dict[str, Tensor]:
        """The importance of all heads and neurons that are there, (n,), by layer."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.removable}
        for alive in (self.heads, self.neurons):
            for name, indices in alive.items():
                layer = name if name in self.mlps else name.rpartition(".")[0]
                if layer in found:
                    found[layer].append(self._values(importance, name)[indices])
        return {name: torch.cat(values) for name, values in found.items()}

    def options(
        self,
        importance: PartImportance,
        may_go: Collection[str],
        removal_lost: Mapping[str, float],
    ) -> list[LayerOptions]:
        """What may become of the layers, and what that loses.

        Args:
            importance: of the model's heads and neurons.
            may_go: some of PARTS; what else there is stays.
            removal_lost: what is lost without a layer, by its name; the others stay.
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
        for name, value in removal_lost.items():
            found[name].removal_lost = value
        return list(found.values())

    def _values(self, importance: PartImportance, name: str) -> Tensor:
        known = importance.values.get(name)
        if known is not None:
            return known.cpu()
        block = self.attention.get(name)
        number = block.num_heads if block else self.mlps[name].fc1.out_features
        return torch.ones(number, device="cpu")

    def shrink_(
        self,
        part: str,
        goal: Sequence[LayerShape],
        left: int,
        importance: PartImportance,
        removal_lost: Mapping[str, float],
    ) -> None:
        """Zero the least important of what the goal leaves out, in place.

        Args:
            part: "layers", "heads" or "neurons", which of them.
            goal: layers that stay, with what they keep.
            left: how many to leave in the whole model.
            importance: of the model's heads and neurons.
            removal_lost: what is lost without a layer, by its name.
        """
        shapes = {shape.name: shape for shape in goal}
        if part == "layers":
            going = [shape.name for shape in self.shapes if shape.name not in shapes]
            surplus = max(0, len(self.shapes) - left)
            zero_layers_(self.model, sorted(going, key=removal_lost.__getitem__)[:surplus])
        elif part == "heads":
            keep = {
                name: shapes[layer].heads[block.kind] if layer in shapes else 0
                for name, block in self.attention.items()
                for layer in [name.rpartition(".")[0]]
            }
            for name, heads in self._to_zero(self.heads, keep, importance, left).items():
                zero_heads_(self.attention[name], heads)
        else:
            keep = {name: shapes[name].neurons if name in shapes else 0 for name in self.mlps}
            for name, neurons in self._to_zero(self.neurons, keep, importance, left).items():
                zero_neurons_(self.mlps[name], neurons)

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
