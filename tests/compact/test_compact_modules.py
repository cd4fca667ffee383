"""What stands in a compact model where fairseq's modules stood, and what of a model it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroprune_fairseq.compact import compact, cutting, shapes
from neuroprune_fairseq.compact.cutting import cut_, make_plan, plan_of_pruned
from neuroprune_fairseq.compact.modules import ConstantAttention, SelectedLinear
from neuroprune_fairseq.compact.sizes import reshape_
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.structure import all_attention, attention_blocks, mlp_blocks

TINY = {"encoder_layers": 1, "decoder_layers": 1}
ENCODER, DECODER, CROSS = (
    *("encoder.layers.0.self_attn", "decoder.layers.0.self_attn"),
    "decoder.layers.0.encoder_attn",
)


def cross_inputs(model):
    """The dimensions that the cross-attention of the last layer reads."""
    return attention_blocks(model)[-1].q_proj.inputs.tolist()


@pytest.mark.parametrize("bias", [True, False])
def test_a_selected_linear_layer_computes_what_the_whole_one_does_with_zero_columns(bias):
    torch.manual_seed(1)
    whole, kept, x = nn.Linear(6, 3, bias), torch.tensor([1, 2, 4, 5]), torch.randn(2, 5, 6)
    narrow = SelectedLinear(whole, kept)
    narrower = SelectedLinear(narrow, torch.tensor([0, 3]))  # of the whole: 1 and 5

    for layer, columns in ((narrow, [1, 2, 4, 5]), (narrower, [1, 5])):
        zeroed = torch.zeros(3, 6)
        zeroed[:, columns] = whole.weight.detach()[:, columns]
        assert torch.equal(layer.full_weight(), zeroed)
        expected = nn.functional.linear(x, zeroed, whole.bias)
        assert torch.allclose(layer(x), expected, atol=1e-6)
        assert layer.inputs.tolist() == columns
        assert (layer.in_features, layer.out_features) == (len(columns), 3)
        assert layer.full_in_features == 6
        assert layer.bias is whole.bias
        assert layer.weight.is_contiguous()
        assert list(layer.state_dict()) == list(whole.state_dict()), "indices are no state"
    kept[0] = 0
    assert narrow.inputs[0] == 1, "the caller's indices are the caller's"


def test_a_constant_module_gives_weights_where_and_as_a_caller_wants_them():
    module = ConstantAttention(torch.tensor([1.0, 2.0]))
    query, key = torch.zeros(3, 2, 2), torch.zeros(4, 2, 2)
    even = torch.full((2, 3, 4), 0.25)
    assert torch.equal(module(query, key, key)[1], even)
    assert module(query, key, key, need_weights=False)[1] is None
    assert torch.equal(
        module(query, key, key, need_weights=False, need_head_weights=True)[1][0], even
    )
    assert module(query, key, key, need_head_weights=True)[1].shape == (1, 2, 3, 4)
    padding = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]])  # not bool
    weights = module(query, key, key, padding)[1]
    assert torch.allclose(weights[0, 0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))
    assert weights[1].tolist() == [[1.0, 0.0, 0.0, 0.0]] * 3
    assert module._get_input_buffer({}) == {}


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_frozen_stays_frozen_and_what_trains_goes_on(build_model, monkeypatch, frozen):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)
    model = build_model(**TINY).train()
    model.requires_grad_(not frozen)
    encoder, _, cross = attention_blocks(model)
    zero_heads_(encoder, torch.arange(6))
    zero_heads_(cross, torch.arange(2))
    with torch.no_grad():
        for weight in cross.prunable_weights:
            weight[:, 30:] = 0.0
    for mlp in mlp_blocks(model):
        zero_neurons_(mlp, torch.arange(5))
    for mode in (True, False):
        smaller = compact(model.train(mode))
        assert all(p.requires_grad == (not frozen) for p in smaller.parameters())
        assert smaller.encoder.layers[0].self_attn.training == mode
    assert cross_inputs(smaller) == list(range(30))


def test_cutting_draws_no_random_number(build_model, monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)
    model = build_model(**TINY)
    with torch.no_grad():
        for block in attention_blocks(model):
            for weight in block.prunable_weights:
                weight[:, 20:] = 0.0
    zero_heads_(attention_blocks(model)[0], torch.arange(6))
    before = torch.get_rng_state()
    assert cross_inputs(compact(model)) == list(range(20))
    assert torch.equal(torch.get_rng_state(), before), "a run goes on with the same dropout"


def test_the_cut_modules_know_what_they_were(build_model):
    model = build_model(**TINY)
    encoder, decoder, _ = attention_blocks(model)
    zero_heads_(encoder, torch.arange(6))
    zero_heads_(decoder, torch.tensor([0, 4]))
    zero_neurons_(mlp_blocks(model)[1], torch.arange(90))
    once = compact(model)
    zero_heads_(attention_blocks(once)[0], torch.tensor([1]))
    zero_neurons_(mlp_blocks(once)[1], torch.arange(2))
    twice = compact(once)

    (removed,) = (block for block in all_attention(twice) if not block.num_heads)
    assert (removed.name, removed.full_num_heads, removed.full_size) == (ENCODER, 6, 3 * 48 * 48)
    block, whole = attention_blocks(twice)
    assert (block.name, block.num_heads, block.full_num_heads) == (DECODER, 3, 6)
    assert (block.head_dim, block.module.embed_dim) == (8, 24)
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        assert projection.out_features == len(projection.bias) == len(projection.weight) == 24
        assert projection.in_features == 48
    assert block.out_proj.in_features == 24 and block.out_proj.out_features == 48
    assert whole.num_heads == 6
    mlp = mlp_blocks(twice)[1]
    assert (mlp.fc1.out_features, mlp.fc2.in_features, mlp.full_ffn_embed_dim) == (4, 4, 96)
    assert shapes(twice) == {
        **{ENCODER: 0, "encoder.layers.0": 96, "decoder.layers.0": 4, DECODER: 3, CROSS: 6}
    }
    assert list(shapes(twice)) == [
        *("encoder.layers.0", ENCODER, "decoder.layers.0", DECODER),
        CROSS,
    ]


@torch.no_grad()
def test_a_plan_names_what_stays(build_model, monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 48)
    model = build_model(**TINY)
    encoder, decoder, cross = attention_blocks(model)
    encoder.v_proj.weight[8:16] = 0.0  # head 1 puts out its v bias, if it has one
    encoder.v_proj.bias[8:16] = 1.0
    encoder.head_columns()[:, 3] = 0.0
    for weight in decoder.prunable_weights:
        weight[:, :12] = 0.0  # a quarter: exactly what pays
    for weight in cross.prunable_weights:
        weight[:, :11] = 0.0
    zero_heads_(cross, torch.tensor([5]))
    first, second = mlp_blocks(model)
    first.fc1.weight[2] = 0.0
    first.fc2.weight[:, 4] = 0.0
    zero_neurons_(second, torch.arange(96))
    neurons = [n for n in range(96) if n not in (2, 4)]

    plan = {name: kept.tolist() for name, kept in make_plan(model).items()}
    assert plan == {
        ENCODER: [0, 2, 4, 5],
        DECODER: list(range(6)),
        DECODER + ".inputs": list(range(12, 48)),
        CROSS: [0, 1, 2, 3, 4],
        "encoder.layers.0": neurons,
        "decoder.layers.0": [0],
    }
    held = {name: kept.tolist() for name, kept in plan_of_pruned(model).items()}
    assert held == {
        **{ENCODER: list(range(6)), DECODER: list(range(6)), CROSS: [0, 1, 2, 3, 4]},
        **{"encoder.layers.0": list(range(96)), "decoder.layers.0": [0]},
    }


@torch.no_grad()
def test_an_input_that_one_living_head_reads_in_one_of_q_k_v_stays(build_model, monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)
    model = build_model(**TINY)
    block = attention_blocks(model)[0]
    for weight in block.prunable_weights:
        weight[:, 10:] = 0.0
    block.q_proj.weight[3, 11] = 1.0  # head 0
    block.k_proj.weight[47, 13] = 1.0  # head 5
    block.v_proj.weight[20, 17] = 1.0  # head 2, which nobody reads
    block.head_columns()[:, 2] = 0.0
    assert make_plan(model)[ENCODER + ".inputs"].tolist() == [*range(10), 11, 13]
    zero_heads_(block, torch.arange(6))
    assert ENCODER + ".inputs" not in make_plan(model)


def test_a_plan_without_heads_has_no_use_for_inputs(build_model):
    model = build_model(**TINY)
    plan = make_plan(model)
    plan[ENCODER], plan[ENCODER + ".inputs"] = torch.arange(0), torch.arange(3)
    cut_(model, plan)
    assert isinstance(model.encoder.layers[0].self_attn, ConstantAttention)


def test_a_fresh_model_takes_all_sizes_of_a_compact_one(build_model):
    sizes = {
        "encoder.layers.0": {
            "self_attn": {"num_attention_heads": 2, "heads": [1, 4], "inputs": [3, 5, 47]}
        },
        "decoder.layers.0": {
            "encoder_attn": {"num_attention_heads": 0, "heads": []},
            "intermediate_size": 1,
        },
    }
    model = build_model(**TINY)
    reshape_(model, sizes)
    expected = {ENCODER: 2, "encoder.layers.0": 96, DECODER: 6, CROSS: 0, "decoder.layers.0": 1}
    assert shapes(model) == expected
    assert attention_blocks(model)[0].q_proj.inputs.tolist() == [3, 5, 47]
    whole = build_model(**TINY)
    reshape_(whole, {})
    assert shapes(whole) == shapes(build_model(**TINY))
