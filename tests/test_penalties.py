"""Equations 1 and 2 against numbers worked by hand, loops, and finite differences."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from neuroprune_fairseq.penalties import (
    attention_penalty,
    l1_penalty,
    missing_fraction,
    mlp_penalty,
)
from neuroprune_fairseq.structure import AttentionBlock, MLPBlock, attention_blocks, mlp_blocks


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
