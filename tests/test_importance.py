"""Gate gradients against finite differences of a real gate."""

from __future__ import annotations

import pytest
import torch

from neuroprune_fairseq.compact import compact
from neuroprune_fairseq.importance import GradientImportance, gate_gradients
from neuroprune_fairseq.pruning import zero_heads_
from neuroprune_fairseq.structure import attention_blocks


def loss_of(model, sample):
    logits = model(**sample["net_input"])[0]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"].flatten())


@pytest.mark.parametrize("index", [0, 7])
def test_gate_gradients_equal_finite_differences_of_a_factor_on_the_head(
    build_model, sample, index
):
    model = build_model(activation_fn="gelu").double()  # no kinks
    block = attention_blocks(model)[index]
    loss_of(model, sample).backward()
    found = gate_gradients(block)
    for head in range(6):
        losses = []
        for factor in (1.01, 0.99):
            original = block.out_proj.weight.data.clone()
            with torch.no_grad():
                block.head_columns()[:, head] *= factor
                losses.append(loss_of(model, sample).item())
            block.out_proj.weight.data.copy_(original)
        slope = (losses[0] - losses[1]) / 0.02
        assert found[head].item() == pytest.approx(slope, rel=2e-3, abs=1e-5)


def set_gradients(model, scale):
    for block in attention_blocks(model):
        block.out_proj.weight.grad = scale * torch.ones_like(block.out_proj.weight)


def test_loss_scaling_does_not_change_what_is_important(build_model):
    model = build_model()
    values = []
    for scale in (1.0, 1024.0):
        set_gradients(model, scale)
        importance = GradientImportance()
        importance.update(model)
        values.append(importance.values)
    assert torch.allclose(values[0], values[1])
    assert values[0].mean().item() == pytest.approx(1.0)


def test_the_past_fades_at_the_decay(build_model):
    model = build_model()
    importance = GradientImportance(decay=0.75, values=torch.zeros(108))
    set_gradients(model, 1.0)
    importance.update(model)
    assert importance.values.mean().item() == pytest.approx(0.25)
    assert [len(module) for module in importance.of_modules(model)] == [6] * 18


def test_an_overflowed_update_counts_as_nothing(build_model):
    model = build_model()
    set_gradients(model, float("inf"))
    importance = GradientImportance(values=torch.ones(108))
    importance.update(model)
    assert torch.isfinite(importance.values).all()


def test_heads_that_are_cut_out_leave_the_others_their_importance(build_model):
    model = build_model()
    generator = torch.Generator().manual_seed(3)
    for block in attention_blocks(model):
        zero_heads_(block, torch.tensor([0, 4]))
        block.out_proj.weight.grad = torch.randn(48, 48, generator=generator)
    smaller, kept = compact(model), torch.tensor([1, 2, 3, 5])
    for block, small in zip(attention_blocks(model), attention_blocks(smaller)):
        columns = block.out_proj.weight.grad.view(48, 6, 8)[:, kept]
        small.out_proj.weight.grad = columns.flatten(start_dim=1)
    start = torch.rand(108, generator=generator)
    whole, cut = GradientImportance(values=start), GradientImportance(values=start)
    whole.update(model)
    mask = torch.zeros(18, 6, dtype=torch.bool).index_fill_(1, kept, True).flatten()
    cut.keep_(mask)
    cut.update(smaller)
    assert torch.allclose(cut.values, whole.values[mask])
