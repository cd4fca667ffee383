"""From timed models to a table of what their parts cost.

A design of shapes varies one thing at a time: the heads of a kind of attention, the neurons of a
side, the number of layers. An engine times a model of each, and the table is the one with
non-negative steps that prices all of them best, in relative terms::

    minimise over x >= 0:  sum over shapes s of (1 - table(x).cost(s) / time(s))^2
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn
from tqdm import tqdm

from neuroprune_fairseq.compact.cost_table import CostTable, LayerShape, layer_shapes
from neuroprune_fairseq.compact.cutting import cut_, whole_plan
from neuroprune_fairseq.structure import attention_kind

UNIT = "ms per sentence"
SIDES = ("encoder", "decoder")
NEURON_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # of all neurons; and a single one
Shapes = list[LayerShape]
Timer = Callable[[], float]  # one timing of one model


def _head_groups(per_stack: bool) -> list[tuple[str, ...]]:
    """Kinds of attention whose heads change together."""
    stacks = [("encoder_self",), ("decoder_self", "decoder_cross")]
    return stacks if per_stack else [(kind,) for stack in stacks for kind in stack]


def _full_heads(whole: Shapes, kind: str) -> int:
    return max(shape.heads.get(kind, 0) for shape in whole)


def _neuron_points(whole: Shapes, side: str) -> list[int]:
    most = max(shape.neurons for shape in whole if shape.side == side)
    return sorted({1, *(max(1, round(share * most)) for share in NEURON_SHARES)})


def _layers(whole: Shapes, side: str) -> int:
    return sum(shape.side == side for shape in whole)


def varied(
    whole: Shapes,
    heads: Mapping[str, int] | None = None,
    neurons: Mapping[str, int] | None = None,
    layers: Mapping[str, int] | None = None,
) -> Shapes:
    """Shapes of a model, other than they are in what is named.

    Args:
        whole: of the dense model.
        heads: of every module, by kind.
        neurons: of every MLP, by side.
        layers: how many of the first ones stay, by side.
    """
    heads, neurons, layers, seen = heads or {}, neurons or {}, layers or {}, Counter[str]()
    found = []
    for shape in whole:
        seen[shape.side] += 1
        if seen[shape.side] <= layers.get(shape.side, len(whole)):
            modules = {kind: heads.get(kind, number) for kind, number in shape.heads.items()}
            width = neurons.get(shape.side, shape.neurons)
            found.append(LayerShape(shape.name, modules, width))
    return found


def _together(whole: Shapes, share: float, layers: Mapping[str, int] | None = None) -> Shapes:
    """A share of all heads and neurons, at least one of each."""
    kinds = {kind for shape in whole for kind in shape.heads}
    return varied(
        whole,
        {kind: max(1, round(share * _full_heads(whole, kind))) for kind in kinds},
        {side: max(1, round(share * _neuron_points(whole, side)[-1])) for side in SIDES},
        layers,
    )


def design(whole: Shapes, per_stack: bool) -> list[Shapes]:
    """The shapes to time, the dense model's first.

    Args:
        whole: of the dense model, with an encoder and a decoder.
        per_stack: as of :class:`CostTable`: self- and cross-attention change together, and no
            module without heads is timed, since the engine pads it.
    """
    found = [whole]
    for kinds in _head_groups(per_stack):
        for number in range(int(per_stack), _full_heads(whole, kinds[0])):
            found.append(varied(whole, heads=dict.fromkeys(kinds, number)))
    for side in SIDES:
        for number in _neuron_points(whole, side)[:-1]:
            found.append(varied(whole, neurons={side: number}))
        for number in sorted({1, _layers(whole, side) // 2} - {0, _layers(whole, side)}):
            found.append(varied(whole, layers={side: number}))
    half = {side: max(1, _layers(whole, side) // 2) for side in SIDES}
    return [*found, _together(whole, 1 / 2), _together(whole, 1 / 8), _together(whole, 1 / 8, half)]


class Unknowns:
    """The non-negative numbers that a table is made of: fixed, two layers, and steps.

    A step is what one more head, or the neurons up to the next point, add. What every module has
    that is never gone (the first head of an engine that pads, the first neuron, a constant) can't
    be told from its layer, which holds it.
    """

    def __init__(self, whole: Shapes, per_stack: bool) -> None:
        self.per_stack = per_stack
        self._heads = {g: _full_heads(whole, g[0]) for g in _head_groups(per_stack)}
        self._neurons = {side: [0, *_neuron_points(whole, side)] for side in SIDES}
        self._without_step = 1 + int(per_stack)  # the first entries of a list of heads
        steps = sum(number + 1 - self._without_step for number in self._heads.values())
        steps += sum(len(points) - 2 for points in self._neurons.values())
        self.number = 1 + len(SIDES) + steps

    def table(self, numbers: Iterable[float]) -> CostTable:
        """The table that these numbers, (number,), make, in ms per sentence."""
        rest = map(float, numbers)
        fixed, layer = next(rest), {side: next(rest) for side in SIDES}
        attention: dict[str, list[float]] = {}
        mlp = {}
        for kinds, most in self._heads.items():
            costs = self._costs(rest, self._without_step, most + 1)
            attention.update((kind, costs) for kind in kinds)
        for side, points in self._neurons.items():
            mlp[side] = list(zip(points, self._costs(rest, 2, len(points))))
        return CostTable(UNIT, fixed, layer, attention, mlp, self.per_stack)

    @staticmethod
    def _costs(rest: Iterator[float], zeros: int, entries: int) -> list[float]:
        return list(accumulate([*[0.0] * zeros, *islice(rest, entries - zeros)]))


def fit(shapes: Sequence[Shapes], times: Sequence[float], per_stack: bool) -> CostTable:
    """The table that prices timed shapes best.

    Args:
        shapes: of a :func:`design`, the dense model's first.
        times: of each, in ms per sentence.
        per_stack: as of the :func:`design`.
    """
    unknowns = Unknowns(shapes[0], per_stack)
    ones = [unknowns.table(row) for row in np.eye(unknowns.number)]
    costs = np.array([[table.cost(each) for table in ones] for each in shapes])
    solution, _ = nnls(costs / np.array(times)[:, None], np.ones(len(times)), maxiter=10_000)
    return unknowns.table(solution)


def cut_to(model: nn.Module, shapes: Shapes) -> nn.Module:
    """A model of these shapes, to be timed: which heads and neurons stay makes no difference.

    Args:
        model: a fairseq model with encoder and decoder; stays as it is.
        shapes: of layers that it has.

    Returns:
        A copy; weights that are not cut are those of the model itself.
    """
    whole, kept = layer_shapes(model), {shape.name: shape for shape in shapes}
    smaller = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    plan = whole_plan(model)
    for name in plan:
        if name in kept:
            plan[name] = torch.arange(kept[name].neurons)
        elif (layer := name.rpartition(".")[0]) in kept:
            plan[name] = torch.arange(kept[layer].heads[attention_kind(name)])
    cut_(smaller, plan)
    for stack in {shape.stack for shape in whole}:
        parent = smaller.get_submodule(stack.rpartition(".")[0])
        layers = parent.layers.named_children()
        parent.layers = nn.ModuleList(m for name, m in layers if f"{stack}.{name}" in kept)
        parent.num_layers = len(parent.layers)
    return smaller


def take_turns(timers: Sequence[Timer], rounds: int) -> np.ndarray:
    """Time every model once a round, each round from another one on.

    Returns:
        (rounds, models) what the timers said.
    """
    times = np.empty((rounds, len(timers)))
    with tqdm(total=times.size, desc="timings", unit="model") as progress:
        for number in range(rounds):
            for place in range(len(timers)):
                model = (place + number * len(timers) // rounds) % len(timers)
                times[number, model] = timers[model]()
                progress.update()
    return times
