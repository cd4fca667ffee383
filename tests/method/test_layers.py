"""Whole layers: what zeroing one takes, when one counts as pruned, what is held at zero."""

from __future__ import annotations

import copy

import pytest
import torch

from neuroprune_fairseq.method.pruning import pruned_layers, zero_layers_
from neuroprune_fairseq.method.zero_mask import ZeroMask
from neuroprune_fairseq.structure import layer_blocks

GONE = ["encoder.layers.1", "decoder.layers.4"]


@pytest.fixture
def model(build_model):
    """Every bias is something: fairseq starts with zeros, which would hide much."""
    model = build_model()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_the_layers_that_can_go_are_those_of_encoder_and_decoder(model):
    names = [f"{side}.layers.{n}" for side in ("encoder", "decoder") for n in range(6)]
    layers = layer_blocks(model)
    assert [layer.name for layer in layers] == names
    assert [len(layer.attention) for layer in layers] == [1] * 6 + [2] * 6


@pytest.mark.parametrize("option", ["scale_attn", "scale_resids"])
def test_a_layer_with_more_on_its_residual_path_cannot_go(build_model, option):
    model = build_model(**{option: True})
    assert [layer.name for layer in layer_blocks(model)] == [
        f"encoder.layers.{n}" for n in range(6)
    ]
    with pytest.raises(ValueError, match="decoder.layers.0 is no layer that can go"):
        zero_layers_(model, ["encoder.layers.0", "decoder.layers.0"])
    assert pruned_layers(model) == []


def test_what_is_zeroed_are_the_sublayers_of_the_named_layers_alone(model):
    before = copy.deepcopy(model.state_dict())
    assert pruned_layers(model) == []
    zero_layers_(model, GONE)
    assert pruned_layers(model) == GONE
    for name, tensor in model.state_dict().items():
        layer = ".".join(name.split(".")[:3])
        if layer in GONE and "norm" not in name:
            assert not tensor.any(), name
        else:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "parameter",
    ["self_attn.out_proj.bias", "encoder_attn.out_proj.bias", "encoder_attn.q_proj.weight"]
    + ["self_attn.v_proj.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"],
)
def test_one_entry_that_is_not_zero_makes_a_layer_one_that_is_there(model, parameter):
    zero_layers_(model, GONE)
    model.get_parameter(f"{GONE[1]}.{parameter}").data.view(-1)[-1] = 1e-9
    assert pruned_layers(model) == GONE[:1]


def step_(model, sample, optimizer):
    optimizer.zero_grad()
    model(**sample["net_input"])[0].square().sum().backward()
    optimizer.step()


def test_adam_regrows_the_biases_of_a_layer_unless_they_are_held(model, sample):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    step_(model, sample, optimizer)
    zero_layers_(model, GONE)
    zeros = ZeroMask(model)
    step_(model, sample, optimizer)
    assert pruned_layers(model) == []
    zeros.hold_()
    for _ in range(3):
        assert pruned_layers(model) == GONE
        step_(model, sample, optimizer)
        zeros.hold_()
    assert model.get_parameter("encoder.layers.0.fc2.bias").all()


def test_biases_of_zero_in_a_layer_with_a_head_are_not_held(model):
    zero_layers_(model, GONE)
    weight = model.get_parameter(f"{GONE[0]}.self_attn.v_proj.weight")
    weight.data[:8] = 1.0  # the first head
    zeros = ZeroMask(model)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    zeros.hold_()
    for place, held in ((GONE[0], False), (GONE[1], True), ("decoder.layers.3", False)):
        for name in ("self_attn.out_proj.bias", "fc2.bias"):
            assert bool(model.get_parameter(f"{place}.{name}").eq(0).all()) == held
