"""Gate gradients of heads and neurons against finite differences of a real gate."""

from __future__ import annotations

import copy

import pytest
import torch
from test_importance import loss_of

from neuroprune_fairseq.compact.cutting import cut_, plan_of_pruned
from neuroprune_fairseq.method.part_importance import PartImportance, part_gate_gradients
from neuroprune_fairseq.method.pruning import zero_heads_, zero_layers_, zero_neurons_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


def slope(model, sample, parameters):
    """The loss's derivative by a factor on these (views of) parameters, by finite differences."""
    losses = []
    for factor in (1.01, 0.99):
        changed = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter *= factor
            losses.append(loss_of(model, sample).item())
            for parameter, value in zip(parameters, changed):
                parameter.copy_(value)
    return (losses[0] - losses[1]) / 0.02


@pytest.fixture
def model(build_model, sample):
    model = build_model(activation_fn="gelu").double()
    with torch.no_grad():
        for block in [*attention_blocks(model), *mlp_blocks(model)]:
            out = block.fc2 if hasattr(block, "fc2") else block.out_proj
            out.bias += torch.randn(out.bias.shape, generator=torch.Generator().manual_seed(3))
    loss_of(model, sample).backward()
    return model


def test_they_equal_finite_differences_of_a_factor_on_the_part(model, sample):
    found = part_gate_gradients(model)
    mlp, block = mlp_blocks(model)[7], attention_blocks(model)[7]
    for neuron in (0, 5):
        expected = slope(model, sample, [mlp.fc2.weight[:, neuron]])
        assert found[mlp.name][neuron].item() == pytest.approx(expected, rel=2e-3, abs=1e-5)
    expected = slope(model, sample, [block.head_columns()[:, 2]])
    assert found[block.name][2].item() == pytest.approx(expected, rel=2e-3, abs=1e-5)


def test_loss_scaling_does_not_change_what_is_important(model):
    importance = PartImportance()
    importance.update(model)
    for parameter in model.parameters():
        parameter.grad *= 1024
    scaled = PartImportance()
    scaled.update(model)
    for name, values in importance.values.items():
        assert torch.allclose(values, scaled.values[name])
    assert sum(v.sum().item() for v in importance.values.values()) == pytest.approx(1.0)


def test_an_overflow_counts_as_an_update_without_importance(model):
    importance = PartImportance(decay=0.5)
    importance.update(model)
    before = copy.deepcopy(importance.values)
    attention_blocks(model)[0].out_proj.weight.grad[0, 0] = float("inf")
    importance.update(model)
    for name, values in importance.values.items():
        assert torch.allclose(values, 0.5 * before[name])


def test_what_is_cut_out_is_forgotten_and_the_rest_stays(model):
    importance = PartImportance()
    importance.update(model)
    before = copy.deepcopy(importance.values)
    zero_heads_(attention_blocks(model)[0], torch.tensor([1, 2]))
    zero_heads_(attention_blocks(model)[1], torch.arange(6))
    zero_neurons_(mlp_blocks(model)[0], torch.tensor([0, 3]))
    zero_layers_(model, ["decoder.layers.5"])
    plan = plan_of_pruned(model)
    importance.keep(plan)
    cut_(model, plan)
    importance.check(model)
    first, second = "encoder.layers.0.self_attn", "encoder.layers.1.self_attn"
    assert torch.equal(importance.values[first], before[first][[0, 3, 4, 5]])
    assert second not in importance.values and "encoder.layers.1" in importance.values
    assert not [name for name in importance.values if name.startswith("decoder.layers.5")]
    neurons = mlp_blocks(model)[0].name
    assert torch.equal(importance.values[neurons], before[neurons][[1, 2, *range(4, 96)]])


def test_values_of_another_model_are_refused(build_model, model):
    importance = PartImportance()
    importance.update(model)
    with pytest.raises(ValueError, match="the importance of encoder.layers.0 is not this model's"):
        importance.check(build_model(encoder_ffn_embed_dim=8))
