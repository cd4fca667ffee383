"""Which heads, hidden neurons and layers to keep, so that a model costs no more than a goal.

What is lost is minimised under the budget. A structure (heads and layers) is filled with as many
neurons as the goal allows: of these the least important per cost go, so the best filling is known
at once. Structures are found with a Lagrange multiplier: at a price per unit of cost every part
decides alone what it keeps. From the best of these single moves (a layer back or gone, a head more
or less) lead on while they help.

After importance per cost of Kwon et al. (2022) and the latency tables of ZipLM (Kurtic et al.,
2023); new is that one number of heads for a whole stack, as engines have it, and whole layers are
choices like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from neuroprune_fairseq.compact.cost_table import CostTable, LayerShape
from neuroprune_fairseq.compact.neuron_numbers import NeuronNumbers

_STEPS = 40  # of a bisection
_DEAREST = 1e30  # a price at which only costs count

Structure = list[LayerShape]


@dataclass
class LayerOptions:
    """What a layer is now, and what is lost when less of it stays."""

    shape: LayerShape
    # By kind of attention, (heads + 1,): lost where 0, 1, 2 ... of its heads stay; fp64.
    heads_lost: dict[str, np.ndarray] = field(default_factory=dict)
    neurons_lost: np.ndarray = field(default_factory=lambda: np.zeros(1))  # the same, of neurons
    removal_lost: float = float("inf")  # infinite: the layer stays


def lost_by_number_kept(importance: Tensor) -> np.ndarray:
    """What is lost where the 0, 1, 2 ... most important of n parts stay.

    Args:
        importance: (n,), >= 0.

    Returns:
        (n + 1,), fp64, descending, ends with 0.
    """
    ascending = np.sort(importance.double().cpu().numpy())
    return np.concatenate([[0.0], ascending.cumsum()])[::-1].copy()


class _Search:
    """The choices of a model's layers."""

    def __init__(self, table: CostTable, layers: Sequence[LayerOptions]) -> None:
        self.table = table
        self.layers = {layer.shape.name: layer for layer in layers}
        self.stacks: dict[str, list[LayerOptions]] = {}
        for layer in layers:
            self.stacks.setdefault(layer.shape.stack, []).append(layer)
        self.neurons: dict[str, NeuronNumbers] = {}
        for layer in layers:
            if layer.shape.side in table.mlp and layer.shape.neurons:
                numbers = range(len(layer.neurons_lost))
                costs = [table.neurons_cost(layer.shape.side, n) for n in numbers]
                found = NeuronNumbers(np.array(costs), layer.neurons_lost)
                self.neurons[layer.shape.name] = found

    # At a price.

    def choose(self, price: float) -> Structure:
        """The layers that stay, each with what it keeps, for what is lost + price x cost."""
        return [shape for stack in self.stacks.values() for shape in self._of_stack(stack, price)]

    def _of_stack(self, layers: list[LayerOptions], price: float) -> Structure:
        if not self.table.per_stack:
            return self._kept([self.layer(layer, price) for layer in layers], layers)[1]
        most = max(heads for layer in layers for heads in (1, *layer.shape.heads.values()))
        found = (
            self._kept([self.layer(layer, price, heads) for layer in layers], layers)
            for heads in range(1, most + 1)
        )
        return min(found, key=lambda choice: choice[0])[1]

    @staticmethod
    def _kept(
        choices: list[tuple[float, LayerShape]], layers: list[LayerOptions]
    ) -> tuple[float, Structure]:
        """Which layers stay: those that are worth it, and one in any case."""
        gains = [layer.removal_lost - value for (value, _), layer in zip(choices, layers)]
        last = max(range(len(layers)), key=gains.__getitem__)
        value, shapes = 0.0, []
        for index, (choice, layer) in enumerate(zip(choices, layers)):
            stays = gains[index] >= 0 or index == last
            value += choice[0] if stays else layer.removal_lost
            shapes += [choice[1]] if stays else []
        return value, shapes

    def layer(
        self, layer: LayerOptions, price: float, padded: int | None = None
    ) -> tuple[float, LayerShape]:
        """(lost + price x cost, what stays) of a layer that stays.

        Args:
            layer: which.
            price: per cost.
            padded: every module costs as one with so many heads, and keeps as many if it has
                them; None: every module chooses.
        """
        shape = layer.shape
        value = price * self.table.layer.get(shape.side, 0.0)
        neurons = shape.neurons
        if mlp := self.neurons.get(shape.name):
            neurons = mlp.at(price)
            value += mlp.lost[neurons] + price * mlp.costs[neurons]
        heads = {}
        for kind, lost in layer.heads_lost.items():
            costs = self.table.attention[kind]
            if padded is None:
                values = lost + price * np.asarray(costs[: len(lost)])
                heads[kind] = int(values.argmin())
                value += float(values[heads[kind]])
            else:
                heads[kind] = min(padded, len(lost) - 1)
                value += float(lost[heads[kind]]) + price * costs[padded]
        return value, replace(shape, heads=heads, neurons=neurons)

    def _with_heads(self, shape: LayerShape, number: int) -> LayerShape:
        """A layer with so many heads in every module that has them."""
        most = self.layers[shape.name].heads_lost
        heads = {kind: min(number, len(most[kind]) - 1) for kind in shape.heads}
        return replace(shape, heads=heads)

    # Within a goal.

    def fill(self, structure: Structure, goal: float) -> Structure | None:
        """These heads and layers, with as many neurons as the goal allows; None for none."""
        full = [replace(s, neurons=self.layers[s.name].shape.neurons) for s in structure]
        surplus = self.table.cost(full) - goal
        if surplus <= 0:
            return full
        mlps = [(i, self.neurons[s.name]) for i, s in enumerate(full) if s.name in self.neurons]
        if not mlps:
            return None
        owners = np.concatenate([np.full(len(mlp.prices), i) for i, mlp in mlps])
        order = np.argsort(np.concatenate([mlp.prices for _, mlp in mlps]), kind="stable")
        saved = np.concatenate([-np.diff(mlp.costs[mlp.corners]) for _, mlp in mlps])[order]
        fewer = np.concatenate([mlp.corners[1:] for _, mlp in mlps])[order]
        owners, total = owners[order], saved.cumsum()
        last = int(np.searchsorted(total, surplus * (1 - 1e-12)))
        if last == len(total):
            return None
        for index in range(last):
            full[owners[index]].neurons = int(fewer[index])
        shape = full[owners[last]]
        rest = surplus - (total[last] - saved[last])
        shape.neurons = self.neurons[shape.name].saving(shape.neurons, int(fewer[last]), rest)
        return full

    def lost(self, shapes: Structure) -> float:
        """What is lost where this is all that stays."""
        kept = {shape.name: shape for shape in shapes}
        total = 0.0
        for name, layer in self.layers.items():
            if shape := kept.get(name):
                total += layer.neurons_lost[shape.neurons]
                total += sum(layer.heads_lost[kind][n] for kind, n in shape.heads.items())
            else:
                total += layer.removal_lost
        return float(total)

    # One step away.

    def moves(self, structure: Structure, price: float) -> Iterator[Structure]:
        """The structures that differ in one layer, or in one head of a module or stack."""
        names = [shape.name for shape in structure]
        for name, layer in self.layers.items():
            same = [shape for shape in structure if shape.stack == layer.shape.stack]
            if name in names and len(same) > 1 and layer.removal_lost < float("inf"):
                yield [shape for shape in structure if shape.name != name]
            elif name not in names:
                padded = max(n for s in same for n in (0, *s.heads.values()))
                back = self.layer(layer, price, padded if self.table.per_stack else None)[1]
                kept = {shape.name: shape for shape in [*structure, back]}
                yield [kept[name] for name in self.layers if name in kept]
        for change in (1, -1):
            yield from self._head_moves(structure, change)

    def _head_moves(self, structure: Structure, change: int) -> Iterator[Structure]:
        if self.table.per_stack:
            for stack in self.stacks:
                heads = max(n for s in structure for n in s.heads.values() if s.stack == stack)
                if heads + change >= 1:
                    yield [
                        self._with_heads(s, heads + change) if s.stack == stack else s
                        for s in structure
                    ]
            return
        for index, shape in enumerate(structure):
            for kind, n in shape.heads.items():
                if 0 <= n + change < len(self.layers[shape.name].heads_lost[kind]):
                    changed = replace(shape, heads={**shape.heads, kind: n + change})
                    yield [*structure[:index], changed, *structure[index + 1 :]]


def smallest_cost(table: CostTable, layers: Sequence[LayerOptions]) -> float:
    """What the smallest model costs that :func:`search_shape` can choose.

    Args:
        table: what parts cost.
        layers: what there is.
    """
    return table.cost(_Search(table, layers).choose(_DEAREST))


def _by_price(search: _Search, goal: float) -> tuple[list[Structure], float]:
    """The structures that prices around the right one choose, and that price."""
    structures, low, high = {}, 1 / _DEAREST, _DEAREST
    for _ in range(_STEPS):
        price = (low * high) ** 0.5
        shapes = search.choose(price)
        key = tuple((shape.name, *shape.heads.items()) for shape in shapes)
        structures[key] = shapes
        low, high = (low, price) if search.table.cost(shapes) <= goal else (price, high)
    return list(structures.values()), high


def search_shape(
    table: CostTable, layers: Sequence[LayerOptions], goal: float, neurons_only: bool = False
) -> list[LayerShape]:
    """The layers that stay, with what they keep, so that least is lost and the goal is met.

    Args:
        table: what parts cost.
        layers: what there is, and what is lost where less of it stays.
        goal: cost that the result does not exceed, in the table's unit.
        neurons_only: heads and layers stay as they are.

    Returns:
        Layers in the order given, without those to remove. Their cost is just below the goal,
        unless a smaller structure loses less than any that comes closer.

    Raises:
        ValueError: no shape is that cheap.
    """
    search, price = _Search(table, layers), 0.0
    structures = [[layer.shape for layer in layers]]
    if not neurons_only:
        structures, price = _by_price(search, goal)

    def best_of(structures: Sequence[Structure]) -> tuple[float, Structure | None]:
        filled = [shapes for one in structures if (shapes := search.fill(one, goal))]
        found = [(search.lost(shapes), number) for number, shapes in enumerate(filled)]
        return (min(found)[0], filled[min(found)[1]]) if found else (float("inf"), None)

    lost, best = best_of(structures)
    if best is None:
        raise ValueError(f"no shape costs {goal:g} {table.unit} or less")
    while not neurons_only:
        less, better = best_of(list(search.moves(best, price)))
        if better is None or less >= lost:
            break
        lost, best = less, better
    return best
