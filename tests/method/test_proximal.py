"""The proximal step against hand-worked numbers; exact zeros that stay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from neuroprune_fairseq.compact import compact
from neuroprune_fairseq.method.penalties import attention_penalty, missing_fraction
from neuroprune_fairseq.method.proximal import (
    MAX_SHRINKAGE,
    proximal_step_,
    shrink_attention_,
    shrink_mlp_,
    soft_threshold,
)
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.method.rows import attention_rows, weight_rows
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.structure import AttentionBlock, MLPBlock, attention_blocks, mlp_blocks


def linear(weight):
    return SimpleNamespace(weight=weight)


def shrink_attention(q, k, v, step):
    """One step on a module of one head whose q, k, v weights are given; changes them."""
    module = SimpleNamespace(num_heads=1, head_dim=len(q))
    module.q_proj, module.k_proj, module.v_proj = linear(q), linear(k), linear(v)
    for batch in attention_rows([AttentionBlock("attn", "encoder_self", module, None)]):
        shrink_attention_(batch, step)


def shrink_mlp(weight, step):
    """One step on fc1's weight; changes it."""
    fc2 = torch.full((1, len(weight)), 7.0)
    for batch in weight_rows([MLPBlock("mlp", linear(weight), linear(fc2))]):
        shrink_mlp_(batch, step, near_zero=1e-4)
    assert torch.equal(fc2, torch.full_like(fc2, 7.0)), "nothing is missing there"


def test_soft_threshold_by_hand():
    weight = torch.tensor([1.0, -0.5, 0.2, -0.2, 0.0])
    weight -= soft_threshold(weight, torch.tensor(0.2))
    assert torch.allclose(weight, torch.tensor([0.8, -0.3, 0.0, 0.0, 0.0]))
    assert (weight[2:] == 0).all()


def test_attention_rows_shrink_by_step_over_twice_the_root_of_their_l1_norm():
    # One q, k, v entry per row: l1 norms 4 and 9, slopes 1/4 and 1/6; step 0.12.
    q, k, v = torch.tensor([[1.0, 3.0]]), torch.tensor([[-2.0, 3.0]]), torch.tensor([[1.0, -3.0]])
    shrink_attention(q, k, v, 0.12)
    assert torch.allclose(q, torch.tensor([[0.97, 2.98]]))
    assert torch.allclose(k, torch.tensor([[-1.97, 2.98]]))
    assert torch.allclose(v, torch.tensor([[0.97, -2.98]]))


def test_an_all_zero_row_stays_zero():
    q = torch.tensor([[0.0, 1.0]])
    shrink_attention(q, q.clone(), q.clone(), 0.01)
    assert q[0, 0] == 0 and q[0, 1] < 1


def test_mlp_rows_shrink_by_step_times_their_missing_share():
    # Half of row 0 is missing, nothing of row 1.
    weight = torch.tensor([[0.0, 1e-5, 1.0, -2.0], [0.5, 0.5, 0.5, -0.5]])
    shrink_mlp(weight, 0.1)
    expected = torch.tensor([[0.0, 0.0, 0.95, -1.95], [0.5, 0.5, 0.5, -0.5]])
    assert torch.allclose(weight, expected)
    assert weight[0, 1] == 0


def test_a_rows_mean_is_one_over_all_heads_that_were_there(build_model):
    model = build_model()
    for block in attention_blocks(model)[:2]:
        for weight in block.prunable_weights:
            weight.data.fill_(0.3)
    zero_heads_(attention_blocks(model)[1], torch.arange(3))
    smaller = compact(model)
    proximal_step_(smaller, lr=1e6, attn_weight=1.0, mlp_weight=0.0, near_zero=0.0)
    first, second = (block.k_proj.weight for block in attention_blocks(smaller)[:2])
    assert torch.allclose(first, torch.full_like(first, 0.3 * (1 - MAX_SHRINKAGE)))
    assert torch.allclose(second, torch.full_like(second, 0.3 * (1 - MAX_SHRINKAGE / 2)))


def test_one_step_takes_at_most_a_share_of_a_rows_mean_magnitude():
    q = torch.full((1, 2), 0.3)
    shrink_attention(q, q.clone(), q.clone(), 1e6)
    assert torch.allclose(q, torch.full((1, 2), 0.3 * (1 - MAX_SHRINKAGE)))
    weight = torch.tensor([[0.0, 1.0]])
    shrink_mlp(weight, 1e6)
    assert torch.allclose(weight, torch.tensor([[0.0, 1.0 - 0.5 * MAX_SHRINKAGE]]))


@torch.no_grad()
def test_a_cut_model_shrinks_as_the_model_with_its_zeros_does(build_model):
    model = build_model()
    for number, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(number % 6))
    for mlp in mlp_blocks(model):
        zero_neurons_(mlp, torch.arange(40))
    smaller = compact(model)
    for one in (model, smaller):
        proximal_step_(one, lr=1e-3, attn_weight=0.5, mlp_weight=200.0, near_zero=0.05)
    expected, found = mlp_blocks(model)[3].fc2.weight, mlp_blocks(smaller)[3].fc2.weight
    assert torch.allclose(found, expected[:, 40:], atol=1e-7)
    expected, found = attention_blocks(model)[5].v_proj, attention_blocks(smaller)[5].v_proj
    assert torch.allclose(found.weight, expected.weight[40:], atol=1e-7)


@torch.no_grad()
def test_what_is_cut_out_is_missing_from_a_row_also_where_a_step_is_small(build_model):
    model = build_model()
    zero_neurons_(mlp_blocks(model)[0], torch.arange(72))
    smaller = compact(model)
    fc2 = mlp_blocks(smaller)[0].fc2.weight.fill_(0.5)
    proximal_step_(smaller, lr=1e-3, attn_weight=0.0, mlp_weight=2.0, near_zero=0.05)
    assert torch.allclose(fc2, torch.full_like(fc2, 0.5 - 2e-3 * 72 / 96), rtol=1e-6)


def test_a_step_lowers_the_penalty_it_is_made_for(build_model):
    model = build_model()
    fc1 = mlp_blocks(model)[0].fc1.weight
    missing = missing_fraction(fc1, 0.01)
    before = attention_penalty(attention_blocks(model)), (missing * fc1.abs()).sum()
    proximal_step_(model, lr=1e-3, attn_weight=0.5, mlp_weight=2.0, near_zero=0.01)
    assert attention_penalty(attention_blocks(model)) < before[0]
    assert (missing * fc1.abs()).sum() < before[1]


def test_repeated_steps_reach_exact_zeros(build_model):
    model = build_model()
    for _ in range(200):
        proximal_step_(model, lr=1e-3, attn_weight=5.0, mlp_weight=50.0, near_zero=1e-2)
    found = measure(model)
    assert found["attn_sparsity"] > 0.2 and found["mlp_sparsity"] > 0.2


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.5, 0.0)])
def test_a_weight_of_zero_leaves_its_part_alone(build_model, weights):
    model = build_model()
    mlp = [w.clone() for block in mlp_blocks(model) for w in block.prunable_weights]
    proximal_step_(model, 1e-3, *weights, near_zero=0.01)
    after = [w for block in mlp_blocks(model) for w in block.prunable_weights]
    assert all(torch.equal(a, b) for a, b in zip(after, mlp))


def test_training_with_the_proximal_solver_gives_exact_zeros_and_the_plain_loss(run_train):
    flags = ("--penalty-solver", "proximal", "--near-zero", 1e-3, "--max-epoch", 2)
    weights = ("--attn-penalty-weight", 50, "--mlp-penalty-weight", 500)
    state = run_train(*flags, *weights)
    fc1 = state["model"]["encoder.layers.0.fc1.weight"]
    key = state["model"]["encoder.layers.0.self_attn.k_proj.weight"]
    assert fc1.eq(0).any() and key.eq(0).any()


def test_the_proximal_solver_without_our_task_is_refused(run_train):
    with pytest.raises(SystemExit, match="--penalty-solver proximal .*translation_neuroprune"):
        run_train("--max-epoch", 1, "--penalty-solver", "proximal", task="translation")
