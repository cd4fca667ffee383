"""Costs of shapes: counted ones against models that were really cut."""

import pytest
import torch

from neuroprune_fairseq.compact.cost import flops_per_token
from neuroprune_fairseq.compact.cost_table import (
    CostTable,
    LayerShape,
    flops_table,
    layer_shapes,
    parameter_table,
)
from neuroprune_fairseq.compact.cutting import compact, whole_plan


def cut(model, heads, neurons):
    """A copy with the first of the heads of every module, and of the neurons."""
    plan = whole_plan(model)
    for index, name in enumerate(plan):
        attn = name.endswith("attn")
        keep = heads[index % len(heads)] if attn else neurons[index % len(neurons)]
        plan[name] = torch.arange(min(keep, len(plan[name])))
    return compact(model, plan)


@pytest.mark.parametrize("heads, neurons", [([2], [3]), ([1, 0, 2], [4, 1]), ([4], [16])])
def test_counted_costs_are_those_of_the_cut_model(build_model, heads, neurons):
    model = build_model()
    small = cut(model, heads, neurons)
    shapes = layer_shapes(small)
    parameters = sum(p.numel() for p in small.parameters())
    assert parameter_table(model).cost(shapes) == pytest.approx(parameters)
    if 0 not in heads:
        assert flops_table(model).cost(shapes) == pytest.approx(sum(flops_per_token(small)))


def test_a_table_of_a_compact_model_prices_what_was_cut_out_of_it(build_model):
    model = build_model()
    small = cut(model, [2], [3])
    assert parameter_table(small).cost(layer_shapes(model)) == pytest.approx(
        sum(p.numel() for p in model.parameters())
    )


def test_a_stack_costs_as_its_module_with_most_heads():
    points = [(0, 0.0), (10, 5.0), (20, 6.0)]
    attention = {"decoder_self": [0.0, 1.0, 3.0], "decoder_cross": [0.0, 2.0, 4.0]}
    shapes = [
        LayerShape("decoder.layers.0", {"decoder_self": 1, "decoder_cross": 2}, 5),
        LayerShape("decoder.layers.1", {"decoder_self": 0, "decoder_cross": 1}, 20),
    ]
    each = CostTable("ms", 100.0, {"decoder": 0.5}, attention, {"decoder": points})
    # 100 + (0.5 + 1 + 4 + 2.5) + (0.5 + 0 + 2 + 6)
    assert each.cost(shapes) == 116.5
    padded = CostTable("ms", 100.0, {"decoder": 0.5}, attention, {"decoder": points}, True)
    # both layers with 2 heads everywhere: 100 + (0.5 + 3 + 4 + 2.5) + (0.5 + 3 + 4 + 6)
    assert padded.cost(shapes) == 123.5
    assert padded.cost(shapes[1:]) == 100 + 0.5 + 1 + 2 + 6
    assert padded.cost([]) == 100
