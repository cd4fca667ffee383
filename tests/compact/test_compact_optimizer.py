"""An optimizer's state is cut as the parameters are, entry by entry; what cannot be cut is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroprune_fairseq.compact import compact
from neuroprune_fairseq.compact.cutting import make_plan
from neuroprune_fairseq.compact.optimizer import (
    cut_like_parameters,
    cut_optimizer_state,
    trained_parameters,
)
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


@pytest.fixture
def pruned(build_model):
    """A model whose encoder attention goes as a whole, two heads and five neurons elsewhere."""
    model = build_model(encoder_layers=1, decoder_layers=1)
    encoder, decoder, _ = attention_blocks(model)
    zero_heads_(encoder, torch.arange(6))
    zero_heads_(decoder, torch.tensor([0, 3]))
    zero_neurons_(mlp_blocks(model)[0], torch.arange(5))
    model.decoder.layers[0].fc2.bias.requires_grad = False
    return model


def numbered(model):
    """Tensors of the parameters' shapes, all entries different, by name."""
    found, start = {}, 0
    for name, parameter in trained_parameters(model).items():
        found[name] = torch.arange(start, start + parameter.numel()).view(parameter.shape)
        start += parameter.numel()
    return found


def expected_cut(model):
    """What is left of :func:`numbered`, written down by hand, under the old names."""
    left = numbered(model)
    encoder, decoder = "encoder.layers.0.", "decoder.layers.0.self_attn."
    for name in list(left):
        if name.startswith(encoder + "self_attn.") and name != encoder + "self_attn.out_proj.bias":
            del left[name]
    rows = torch.tensor([*range(8, 24), *range(32, 48)])
    for projection in "qkv":
        for kind in ("weight", "bias"):
            name = f"{decoder}{projection}_proj.{kind}"
            left[name] = left[name][rows]
    left[decoder + "out_proj.weight"] = left[decoder + "out_proj.weight"][:, rows]
    for name in ("fc1.weight", "fc1.bias"):
        left[encoder + name] = left[encoder + name][5:]
    left[encoder + "fc2.weight"] = left[encoder + "fc2.weight"][:, 5:]
    return left


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_what_is_trained_has_its_name_in_the_models_order(pruned):
    named = dict(pruned.named_parameters())
    assert list(trained_parameters(pruned)) == [
        n for n in named if n != "decoder.layers.0.fc2.bias"
    ]
    assert all(parameter is named[name] for name, parameter in trained_parameters(pruned).items())


def test_tensors_are_cut_as_their_parameters_are_and_named_as_before(pruned):
    plan = make_plan(pruned)
    before = {name: parameter.clone() for name, parameter in pruned.named_parameters()}
    tensors = {name: t.float() for name, t in numbered(pruned).items()}
    found = cut_like_parameters(tensors, pruned, plan)
    assert_equal(found, {name: t.float() for name, t in expected_cut(pruned).items()})
    # The order is that of the cut model, which an optimizer's state follows.
    smaller = trained_parameters(compact(pruned, plan))
    assert [t.shape for t in found.values()] == [p.shape for p in smaller.values()]
    some = cut_like_parameters({n: t for n, t in tensors.items() if "fc1" in n}, pruned, plan)
    assert_equal(some, {n: t for n, t in found.items() if "fc1" in n})
    assert_equal(dict(pruned.named_parameters()), before)


def adam_state(model, skipped=()):
    """As Adam's state_dict; its parameters are numbered from 7 on."""
    entries = {
        7 + index: {"step": index, "exp_avg": t.float(), "exp_avg_sq": 2 * t.float()}
        for index, (name, t) in enumerate(numbered(model).items())
        if name not in skipped
    }
    group = {"lr": 0.5, "params": list(range(7, 7 + len(numbered(model))))}
    return {"state": entries, "param_groups": [group], "extra": "stays"}


def test_every_moment_of_a_parameter_is_cut_and_all_else_stays(pruned):
    skipped = ("encoder.layers.0.fc1.bias", "encoder.layers.0.self_attn.out_proj.bias")
    old = adam_state(pruned, skipped)
    found = cut_optimizer_state(old, pruned, make_plan(pruned))
    expected = expected_cut(pruned)
    steps = {name: index for index, name in enumerate(trained_parameters(pruned))}
    # The constant that is left of a module stands where fairseq's module stood.
    smaller = trained_parameters(compact(pruned))
    names = [
        name if name in expected else name.removesuffix(".bias") + ".out_proj.bias"
        for name in smaller
    ]
    assert found.keys() == old.keys() and found["extra"] == "stays"
    assert found["param_groups"] == [{"lr": 0.5, "params": list(range(len(names)))}]
    assert list(found["state"]) == [i for i, name in enumerate(names) if name not in skipped]
    for index, entry in found["state"].items():
        name = names[index]
        assert_equal(
            {key: torch.as_tensor(value) for key, value in entry.items()},
            {
                "step": torch.tensor(steps[name]),
                "exp_avg": expected[name].float(),
                "exp_avg_sq": 2 * expected[name].float(),
            },
        )
    assert old["state"][7]["exp_avg"].shape == next(iter(numbered(pruned).values())).shape


def test_the_state_of_flattened_parameters_is_cut_piece_by_piece(pruned):
    flat = torch.cat([t.flatten() for t in numbered(pruned).values()]).float()
    entry = {"step": 3, "exp_avg": flat, "exp_avg_sq": 2 * flat, "scales": torch.ones(2)}
    old = {"state": {5: entry}, "param_groups": [{"lr": 0.5, "params": [5]}]}
    found = cut_optimizer_state(old, pruned, make_plan(pruned))
    cut = cut_like_parameters(
        {n: t.float() for n, t in numbered(pruned).items()}, pruned, make_plan(pruned)
    )
    joined = torch.cat([t.flatten() for t in cut.values()])
    assert found["param_groups"] == [{"lr": 0.5, "params": [0]}]
    assert list(found["state"]) == [0] and found["state"][0]["step"] == 3
    assert torch.equal(found["state"][0]["exp_avg"], joined)
    assert torch.equal(found["state"][0]["exp_avg_sq"], 2 * joined)
    assert torch.equal(found["state"][0]["scales"], torch.ones(2))
    assert torch.equal(old["state"][5]["exp_avg"], flat)


def test_an_optimizer_without_any_update_has_none_after_the_cut(pruned):
    old = adam_state(pruned, skipped=tuple(numbered(pruned)))
    found = cut_optimizer_state(old, pruned, make_plan(pruned))
    assert found["state"] == {}
    flat = {"state": {}, "param_groups": [{"lr": 0.5, "params": [5]}]}
    assert cut_optimizer_state(flat, pruned, make_plan(pruned))["state"] == {}


@pytest.mark.parametrize("groups", [[[0, 1]], [[0], [1]], [[]], "two"])
def test_the_state_of_other_parameters_is_refused(pruned, groups):
    number = len(trained_parameters(pruned))
    groups = [list(range(number - 1)), [number - 1]] if groups == "two" else groups
    held = sum(map(len, groups))
    state = {"state": {}, "param_groups": [{"params": params} for params in groups]}
    with pytest.raises(ValueError, match=f"{held} states"):
        cut_optimizer_state(state, pruned, make_plan(pruned))


def test_a_model_of_one_parameter_is_not_mistaken_for_a_flattened_one():
    model = nn.Linear(2, 3, bias=False)
    entry = {"exp_avg": torch.ones(3, 2)}
    state = {"state": {0: entry}, "param_groups": [{"params": [0]}]}
    found = cut_optimizer_state(state, model, {})
    assert found["state"][0]["exp_avg"].shape == (3, 2)
