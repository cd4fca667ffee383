"""What counts as zero and as a head."""

from __future__ import annotations

import pytest
import torch

from neuroprune_fairseq.compact import compact, cutting
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.method.sparsity import count_zeros, full_sizes, head_mask, measure
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


def test_a_fresh_model_is_dense(build_model):
    found = measure(build_model())
    assert found["heads_kept"] == found["heads_total"] == 108
    assert found["attn_sparsity"] == found["mlp_sparsity"] == found["total_sparsity"] == 0.0
    assert list(found["heads_kept_per_module"].values()) == [6] * 18


def test_sparsity_is_the_share_of_zeros_among_q_k_v_and_fc_weights(build_model):
    model = build_model()
    with torch.no_grad():
        for block in attention_blocks(model):
            block.q_proj.weight.zero_()
            block.out_proj.bias.zero_()
        for block in mlp_blocks(model):
            block.fc1.weight[:24].zero_()  # a quarter of fc1
    found = measure(model)
    attn, mlp = 18 * 3 * 48 * 48, 12 * 2 * 48 * 96
    assert found["attn_sparsity"] == pytest.approx(1 / 3)
    assert found["mlp_sparsity"] == pytest.approx(1 / 8)
    assert found["total_sparsity"] == pytest.approx((attn / 3 + mlp / 8) / (attn + mlp))


def test_zeros_are_counted_up_to_the_tolerance_and_nothing_has_none():
    weights = [torch.tensor([0.0, -0.25, 0.5]), torch.tensor([[0.25, 0.0]])]
    assert count_zeros(weights) == 2
    assert count_zeros(weights, 0.25) == 4
    assert count_zeros([]) == 0


def test_tolerance_counts_small_weights_too(build_model):
    model = build_model()
    with torch.no_grad():
        for block in mlp_blocks(model):
            block.fc1.weight.fill_(1e-3)
            block.fc2.weight.fill_(-1.0)
    assert measure(model)["mlp_sparsity"] == 0.0
    assert measure(model, tolerance=1e-3)["mlp_sparsity"] == pytest.approx(0.5)


def test_a_head_without_values_or_without_readers_is_lost(build_model):
    model = build_model()
    block = attention_blocks(model)[0]
    with torch.no_grad():
        block.head_columns()[:, 1] = 0.0  # nobody reads head 1
        block.v_proj.weight[16:24] = 0.0  # head 2 has a bias left,
        block.v_proj.weight[24:32] = 0.0  # head 3 nothing
        block.v_proj.bias.zero_()[16] = 0.5
        block.q_proj.weight[32:40] = 0.0  # head 4 attends evenly: still a head
    assert head_mask(block).tolist() == [True, False, True, False, True, True]
    assert measure(model)["heads_kept"] == 106


def test_zeroed_heads_are_counted_in_their_module(build_model):
    model = build_model()
    zero_heads_(attention_blocks(model)[7], torch.tensor([0, 5]))
    found = measure(model)
    assert found["heads_kept_per_module"]["decoder.layers.0.encoder_attn"] == 4
    assert found["heads_kept"] == 106
    assert found["attn_sparsity"] == pytest.approx(2 / 108)


def test_what_is_cut_out_counts_as_zero(build_model):
    model = build_model()
    for number, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(1 + number % 6))
    for number, mlp in enumerate(mlp_blocks(model)):
        zero_neurons_(mlp, torch.arange(number))
    expected, found = measure(model), measure(compact(model))
    assert found == expected
    assert (found["heads_kept"], found["heads_total"]) == (45, 108)


@torch.no_grad()
def test_input_dimensions_that_are_cut_out_count_as_zero(build_model, monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)
    model = build_model()
    zero_heads_(attention_blocks(model)[2], torch.tensor([1, 4]))
    for block in attention_blocks(model):
        for number, weight in enumerate(block.prunable_weights):
            weight[:, 30 + number :] = 0.0
    smaller = compact(model)
    assert attention_blocks(smaller)[0].k_proj.weight.shape == (48, 32)
    assert measure(smaller) == measure(model)


def test_every_projection_counts_with_the_width_that_it_reads(build_model):
    wide = {"encoder_embed_dim": 96, "encoder_ffn_embed_dim": 96}
    model = build_model(share_all_embeddings=False, **wide)
    cross = attention_blocks(model)[7]
    assert cross.full_size == 48 * 48 + 48 * 96 + 48 * 96
    attn = 6 * 3 * 96 * 96 + 6 * 3 * 48 * 48 + 6 * (48 * 48 + 2 * 48 * 96)
    assert full_sizes(model)["attn"] == attn
    zero_heads_(cross, torch.arange(6))
    assert measure(model)["attn_sparsity"] == pytest.approx(cross.full_size / attn)
    assert full_sizes(compact(model)) == full_sizes(model)
