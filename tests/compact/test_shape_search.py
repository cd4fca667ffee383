"""The cheapest loss under a budget, against every shape there is."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from neuroprune_fairseq.compact.cost_table import CostTable, LayerShape
from neuroprune_fairseq.compact.shape_search import (
    LayerOptions,
    lost_by_number_kept,
    search_shape,
    smallest_cost,
)

KINDS = {"encoder": ["encoder_self"], "decoder": ["decoder_self", "decoder_cross"]}
ATTENTION = {
    "encoder_self": [0.0, 2.0, 3.0],
    "decoder_self": [0.0, 3.0, 5.0],
    "decoder_cross": [0.5, 2.5, 4.0],
}
MLP = {"encoder": [(0, 0.5), (4, 3.0)], "decoder": [(0, 0.5), (2, 3.5), (4, 5.0)]}


def table(per_stack):
    return CostTable("ms", 10.0, {"encoder": 0.5, "decoder": 1.0}, ATTENTION, MLP, per_stack)


def model(seed, layers=2, heads=2, neurons=4):
    generator = torch.Generator().manual_seed(seed)

    def importance(n):
        return torch.rand(n, generator=generator) ** 2

    options = []
    for side, kinds in KINDS.items():
        for index in range(layers):
            shape = LayerShape(f"{side}.layers.{index}", dict.fromkeys(kinds, heads), neurons)
            lost = {kind: lost_by_number_kept(importance(heads)) for kind in kinds}
            removal = 1.0 + 2 * float(importance(1))
            neurons_lost = lost_by_number_kept(importance(neurons) * 4 / neurons)
            options.append(LayerOptions(shape, lost, neurons_lost, removal))
    return options


def lost(options, shapes):
    kept = {shape.name: shape for shape in shapes}
    total = 0.0
    for option in options:
        if option.shape.name not in kept:
            total += option.removal_lost
            continue
        shape = kept[option.shape.name]
        total += float(option.neurons_lost[shape.neurons])
        total += sum(float(option.heads_lost[kind][n]) for kind, n in shape.heads.items())
    return total


def every_shape(options, at_least):
    """All shapes, with at least so many heads in a module, and a layer in each stack."""
    choices = []
    for option in options:
        heads = [range(at_least, n + 1) for n in option.shape.heads.values()]
        layer = [
            replace(option.shape, heads=dict(zip(option.shape.heads, kept)), neurons=neurons)
            for kept in product(*heads)
            for neurons in range(1, option.shape.neurons + 1)
        ]
        choices.append([None, *layer])
    for found in product(*choices):
        shapes = [shape for shape in found if shape]
        if {shape.side for shape in shapes} == set(KINDS):
            yield shapes


@pytest.mark.parametrize("seed", range(2))
def test_it_loses_little_more_than_the_best_of_all_shapes(seed):
    options, costs = model(seed, layers=2, heads=1, neurons=2), table(per_stack=False)
    shapes = list(every_shape(options, at_least=0))
    for share in (0.9, 0.75, 0.6):
        goal = share * costs.cost([option.shape for option in options])
        best = min(lost(options, one) for one in shapes if costs.cost(one) <= goal)
        found = search_shape(costs, options, goal)
        assert costs.cost(found) <= goal
        assert lost(options, found) <= 1.5 * best + 0.05


@pytest.mark.parametrize("per_stack", [False, True])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
def test_the_goal_is_met_within_two_percent(per_stack, share):
    points = {side: [(0, 0.5), (300, 4.0)] for side in KINDS}
    costs = replace(table(per_stack), mlp=points, fixed=1.0)
    options = model(1, layers=6, heads=2, neurons=300)
    goal = share * costs.cost([option.shape for option in options])
    cost = costs.cost(search_shape(costs, options, goal))
    assert 0.98 * goal <= cost <= goal * (1 + 1e-12)


def test_an_engine_with_one_number_of_heads_gets_as_many_in_every_module():
    options, costs = model(3, layers=4, heads=2), table(per_stack=True)
    goal = 0.6 * costs.cost([option.shape for option in options])
    for side, kinds in KINDS.items():
        of_side = [shape for shape in search_shape(costs, options, goal) if shape.side == side]
        assert len({shape.heads[kind] for shape in of_side for kind in kinds}) == 1


def test_a_layer_without_importance_goes_first():
    options, costs = model(5), table(per_stack=False)
    options[1].removal_lost = 0.0
    goal = costs.cost([option.shape for option in options]) - 1.0
    found = [shape.name for shape in search_shape(costs, options, goal)]
    assert found == ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"]


def test_heads_and_layers_stay_where_only_neurons_may_go():
    options, costs = model(7), table(per_stack=False)
    goal = 0.85 * costs.cost([option.shape for option in options])
    found = search_shape(costs, options, goal, neurons_only=True)
    assert [shape.heads for shape in found] == [option.shape.heads for option in options]


def test_what_no_shape_costs_is_refused_and_the_least_is_told():
    options, costs = model(9), table(per_stack=False)
    least = smallest_cost(costs, options)
    # One layer a side: no heads, one neuron; 10 + 0.5 + (0.5 + 0.625) + 1 + 0.5 + (0.5 + 1.5)
    assert least == pytest.approx(15.125)
    assert costs.cost(search_shape(costs, options, least)) == pytest.approx(least)
    with pytest.raises(ValueError, match="no shape costs 15 ms or less"):
        search_shape(costs, options, 15.0)


def test_lost_is_the_sum_of_the_least_important_parts():
    found = lost_by_number_kept(torch.tensor([3.0, 1.0, 2.0]))
    assert found.tolist() == [6.0, 3.0, 1.0, 0.0]
