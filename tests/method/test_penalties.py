"""Equations 1 and 2 against numbers worked by hand, loops, and finite differences."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from neuroprune_fairseq.compact.cutting import compact
from neuroprune_fairseq.method import rows
from neuroprune_fairseq.method.penalties import (
    attention_penalty,
    attention_slope,
    l1_penalty,
    missing_fraction,
    mlp_penalty,
)
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.structure import AttentionBlock, MLPBlock, attention_blocks, mlp_blocks

NEAR_ZERO = 0.03


def linear(weight):
    return SimpleNamespace(weight=torch.tensor(weight, requires_grad=True), bias=None)


def attention(q, k, v, heads=1):
    module = SimpleNamespace(
        q_proj=linear(q), k_proj=linear(k), v_proj=linear(v), num_heads=heads, head_dim=1
    )
    return AttentionBlock("attn", "encoder_self", module, None)


def test_attention_penalty_of_two_input_dimensions_by_hand():
    # Column 0 over q, k, v: 1 + 2 + 1 = 4; column 1: 0 + 5 + 4 = 9. sqrt: 2 + 3.
    block = attention([[1.0, 0.0]], [[-2.0, 5.0]], [[1.0, -4.0]])
    assert attention_penalty([block]).item() == pytest.approx(5.0)
    assert attention_penalty([block, block]).item() == pytest.approx(10.0)


def test_attention_penalty_gradient_is_sign_over_twice_the_root_of_the_row():
    block = attention([[1.0, 0.0]], [[-2.0, 5.0]], [[1.0, -4.0]])
    attention_penalty([block]).backward()
    assert block.k_proj.weight.grad.tolist() == [[-0.25, pytest.approx(1 / 6)]]
    assert block.q_proj.weight.grad.tolist() == [[0.25, 0.0]]


def test_an_all_zero_row_has_gradient_zero_and_leaves_the_others_alone():
    block = attention([[0.0, 1.0]], [[0.0, 2.0]], [[0.0, 1.0]])
    attention_penalty([block]).backward()
    assert block.q_proj.weight.grad.tolist() == [[0.0, 0.25]]
    assert attention_penalty([block]).item() == 2.0


def test_mlp_penalty_by_hand():
    # fc1 rows: half missing x 2, none missing x 7; fc2 row: one third missing x 3.
    block = MLPBlock("mlp", linear([[0.0, 2.0], [3.0, -4.0]]), linear([[1.0, 1e-5, -2.0]]))
    expected = 0.5 * 2 + 0 * 7 + (3 + 1e-5) / 3
    assert mlp_penalty([block], near_zero=1e-4).item() == pytest.approx(expected)


def test_missing_fraction_counts_strictly_below_near_zero_and_has_no_gradient():
    weight = torch.tensor([[0.1, -0.05], [0.2, 0.3]], requires_grad=True)
    fraction = missing_fraction(weight, near_zero=0.1)
    assert fraction.tolist() == [[0.5], [0.0]]
    assert not fraction.requires_grad


def test_the_missing_fraction_is_one_of_a_rows_length_whatever_the_number_of_rows():
    weight = torch.tensor([[0.0, 1.0, 0.0, 2.0, 3.0]])
    assert missing_fraction(weight, 0.1).tolist() == [[pytest.approx(0.4)]]
    assert missing_fraction(weight, 0.1, length=10).tolist() == [[pytest.approx(0.7)]]
    assert missing_fraction(weight.half(), 0.1).dtype == torch.float32


def test_the_slope_of_the_root_is_zero_at_zero():
    assert attention_slope(torch.tensor([0.0, 4.0, 0.25])).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("matrices", [1, 4, 18])
def test_at_most_so_many_weights_are_joined_as_fit_the_cache(build_model, monkeypatch, matrices):
    model = build_model()
    monkeypatch.setattr(rows, "JOINED_ON_CPU", matrices * 3 * 48 * 48 + 7)
    found = rows.attention_rows(attention_blocks(model))
    assert [batch.matrices for batch in found] == {1: [1] * 18, 4: [4] * 4 + [2], 18: [18]}[
        matrices
    ]
    joined = [weight for batch in found for weight in batch.weights]
    expected = [w for block in attention_blocks(model) for w in block.prunable_weights]
    assert all(a is b for a, b in zip(joined, expected)) and len(joined) == 54
    monkeypatch.setattr(rows, "JOINED_ON_CPU", 1)  # less than one matrix
    assert [batch.matrices for batch in rows.attention_rows(attention_blocks(model))] == [1] * 18


def test_mlp_gradient_treats_the_fraction_as_constant():
    block = MLPBlock("mlp", linear([[0.0, -2.0]]), linear([[1.0]]))
    mlp_penalty([block], near_zero=1e-4).backward()
    assert block.fc1.weight.grad.tolist() == [[0.0, -0.5]]
    assert block.fc2.weight.grad.tolist() == [[0.0]]


def test_penalties_of_a_real_model_equal_loops_over_the_papers_indices(build_model):
    model = build_model().double()
    r_attn = 0.0
    for block in attention_blocks(model):
        for i in range(48):  # the paper's row i is our column i
            entries = sum(weight[:, i].abs().sum().item() for weight in block.prunable_weights)
            r_attn += entries**0.5
    assert attention_penalty(attention_blocks(model)).item() == pytest.approx(r_attn, rel=1e-5)
    r_mlp = 0.0
    for block in mlp_blocks(model):
        for weight in (block.fc1.weight, block.fc2.weight):
            for row in weight.tolist():
                missing = sum(abs(w) < 0.05 for w in row)
                r_mlp += missing / len(row) * sum(abs(w) for w in row)
    assert mlp_penalty(mlp_blocks(model), 0.05).item() == pytest.approx(r_mlp, rel=1e-5)


def test_l1_penalty_is_the_sum_over_the_same_weights(build_model):
    model = build_model()
    blocks = [*attention_blocks(model), *mlp_blocks(model)]
    expected = sum(w.abs().sum().item() for block in blocks for w in block.prunable_weights)
    assert l1_penalty(blocks).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", [96, 48])
def test_gradients_equal_finite_differences_also_between_widths(build_model, width):
    model = build_model(
        share_all_embeddings=False, encoder_embed_dim=width, encoder_ffn_embed_dim=48
    )
    blocks = attention_blocks(model)[6:8]

    def value():
        return attention_penalty(blocks).double() + mlp_penalty([blocks[0].mlp], 0.02).double()

    value().backward()
    generator = torch.Generator().manual_seed(5)
    for weight in (*blocks[1].prunable_weights, blocks[0].mlp.fc1.weight):
        for _ in range(5):
            i = int(torch.randint(weight.numel(), (), generator=generator))
            entry = weight.data.view(-1)
            if entry[i].abs() < 0.03:
                continue  # the count of Eq. 1 jumps near epsilon
            middle, step = entry[i].item(), 0.005
            entry[i] = middle + step
            above = value().item()
            entry[i] = middle - step
            below = value().item()
            entry[i] = middle
            slope = (above - below) / (2 * step)
            assert weight.grad.view(-1)[i].item() == pytest.approx(slope, abs=2e-2)


def plain_attention_penalty(blocks):
    """Eq. 2 as it is written, one module after the other, differentiated by autograd."""
    total = 0.0
    for block in blocks:
        for weights in block.input_groups:
            norms = sum(weight.float().abs().sum(dim=0) for weight in weights)
            total = total + norms[norms > 0].sqrt().sum()
    return total


def plain_mlp_penalty(blocks):
    """Eq. 1 as it is written."""
    total = 0.0
    for block in blocks:
        for weight in block.prunable_weights:
            missing = (weight.detach().abs() < NEAR_ZERO).float().mean(dim=1, keepdim=True)
            total = total + (missing * weight.float().abs()).sum()
    return total


def gradients(model, function):
    model.zero_grad(set_to_none=True)
    value = function()
    value.backward()
    return value.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [48, 96])
@pytest.mark.parametrize("joined", [1, 2**18])
def test_values_and_gradients_are_those_of_autograd(build_model, monkeypatch, dtype, width, joined):
    monkeypatch.setattr(rows, "JOINED_ON_CPU", joined)  # one matrix at a time, or many
    model = build_model(
        share_all_embeddings=False, encoder_embed_dim=width, encoder_ffn_embed_dim=72
    ).to(dtype)
    attention, mlps = attention_blocks(model), mlp_blocks(model)
    with torch.no_grad():
        attention[0].q_proj.weight[:, 3] = 0.0
        for weight in attention[7].prunable_weights:
            weight[:, 5] = 0.0
        mlps[3].fc1.weight[:, ::2] = 0.0

    def ours():
        return 0.3 * attention_penalty(attention) + 2.0 * mlp_penalty(mlps, NEAR_ZERO)

    def plain():
        return 0.3 * plain_attention_penalty(attention) + 2.0 * plain_mlp_penalty(mlps)

    value, found = gradients(model, ours)
    expected_value, expected = gradients(model, plain)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-5)
    assert found.keys() == expected.keys() and len(found) == 18 * 3 + 12 * 2
    for name, gradient in expected.items():
        assert found[name].dtype == dtype
        assert torch.allclose(found[name].float(), gradient.float(), rtol=1e-6, atol=1e-6), name


def test_what_scales_the_loss_scales_the_gradient(build_model):
    model = build_model()
    _, once = gradients(model, lambda: attention_penalty(attention_blocks(model)))
    _, scaled = gradients(model, lambda: 1024 * attention_penalty(attention_blocks(model)))
    assert all(torch.equal(1024 * once[name], scaled[name]) for name in once)


def test_nothing_waits_for_a_device(build_model):
    # A tensor of the meta device has no values: whatever asks for one fails.
    model = build_model().to("meta")
    penalty = attention_penalty(attention_blocks(model)) + mlp_penalty(mlp_blocks(model), 0.1)
    penalty.backward()
    assert attention_blocks(model)[0].q_proj.weight.grad.is_meta


@torch.no_grad()
def test_a_cut_model_has_the_penalties_of_the_model_with_its_zeros(build_model):
    model = build_model()
    for number, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(1 + number % 6))
    for number, mlp in enumerate(mlp_blocks(model)):
        zero_neurons_(mlp, torch.arange(7 * number))
    smaller = compact(model)
    assert len(attention_blocks(smaller)) == 15
    values = [attention_penalty(attention_blocks(m)).item() for m in (model, smaller)]
    assert values[1] == pytest.approx(values[0])
    values = [mlp_penalty(mlp_blocks(m), NEAR_ZERO).item() for m in (model, smaller)]
    assert values[1] == pytest.approx(values[0])


def test_half_precision_models_are_penalised_in_fp32(build_model):
    model = build_model()
    half = copy.deepcopy(model).half()
    penalty = attention_penalty(attention_blocks(half))
    assert penalty.dtype == torch.float32
    full = attention_penalty(attention_blocks(model)).item()
    assert penalty.item() == pytest.approx(full, rel=1e-3)
    assert mlp_penalty(mlp_blocks(half), 1e-4).dtype == torch.float32


def test_no_blocks_no_penalty():
    assert attention_penalty([]).item() == mlp_penalty([], 1e-4).item() == 0.0
