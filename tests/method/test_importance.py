"""Gate gradients against finite differences of a real gate."""

from __future__ import annotations

import copy

import pytest
import torch

from neuroprune_fairseq.compact.cutting import cut_, plan_of_pruned
from neuroprune_fairseq.method import pieces
from neuroprune_fairseq.method.importance import HeadImportance, WeightImportance, gate_gradients
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.pruners.targets import keep_importance_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


def loss_of(model, sample, part=slice(None)):
    """The loss of some sentences."""
    logits = model(**{name: value[part] for name, value in sample["net_input"].items()})[0]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"][part].flatten())


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


def weights_of(model):
    blocks = [*attention_blocks(model), *mlp_blocks(model)]
    return [weight for block in blocks for weight in block.prunable_weights]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def set_gradients(model, scale):
    for block in attention_blocks(model):
        block.out_proj.weight.grad = scale * torch.ones_like(block.out_proj.weight)


def test_loss_scaling_does_not_change_what_is_important(build_model):
    model = build_model()
    values = []
    for scale in (1.0, 1024.0):
        set_gradients(model, scale)
        importance = HeadImportance()
        importance.update(model)
        values.append(importance.values)
    assert torch.allclose(values[0], values[1])
    assert values[0].mean().item() == pytest.approx(1.0)


def test_the_past_fades_at_the_decay(build_model):
    model = build_model()
    importance = HeadImportance(decay=0.75, values=torch.zeros(108))
    set_gradients(model, 1.0)
    importance.update(model)
    assert importance.values.mean().item() == pytest.approx(0.25)
    assert [len(module) for module in importance.of_modules(model)] == [6] * 18


@pytest.mark.parametrize("kind", [HeadImportance, WeightImportance])
def test_by_default_an_update_counts_a_fiftieth_of_what_was_there(build_model, sample, kind):
    model, importance, seen = build_model(), kind(), []
    for part in (slice(0, 1), slice(1, 3)):
        model.zero_grad()
        loss_of(model, sample, part).backward()
        importance.update(model)
        squares = flat(kind.gradients(model)).double() ** 2
        seen.append(squares / squares.mean())
    expected = 0.98 * seen[0] + 0.02 * seen[1]
    assert torch.allclose(importance.values.double(), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [HeadImportance, WeightImportance])
def test_an_update_without_any_gradient_counts_as_nothing_and_lets_the_past_fade(build_model, kind):
    model = build_model()
    importance = kind()
    importance.update(model)  # no gradient yet: 0 / 0
    assert importance.values.eq(0).all()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    importance.values += 2.0
    importance.update(model)
    assert torch.allclose(importance.values, torch.full_like(importance.values, 2 * 0.98))


def test_before_the_first_gradient_all_heads_matter_equally(build_model):
    found = HeadImportance().of_modules(build_model(decoder_attention_heads=4))
    assert [values.tolist() for values in found] == [[0.0] * 6] * 6 + [[0.0] * 4] * 12


def test_an_overflowed_update_counts_as_nothing(build_model):
    model = build_model()
    set_gradients(model, float("inf"))
    importance = HeadImportance(values=torch.ones(108))
    importance.update(model)
    assert torch.isfinite(importance.values).all()


@pytest.mark.parametrize("kind", [HeadImportance, WeightImportance])
def test_what_is_cut_out_leaves_the_rest_its_importance(build_model, sample, kind):
    model = build_model().eval()
    for block in attention_blocks(model):
        zero_heads_(block, torch.tensor([0, 4]))
    for mlp in mlp_blocks(model):
        zero_neurons_(mlp, torch.arange(0, 96, 3))
    smaller, plan = copy.deepcopy(model), plan_of_pruned(model)
    whole, cut = kind(), kind()
    for importance in (whole, cut):
        loss_of(model, sample).backward()
        importance.update(model)
        model.zero_grad()
    keep_importance_(cut, model, plan)
    cut_(smaller, plan)
    for network, importance in ((model, whole), (smaller, cut)):
        loss_of(network, sample).backward()
        importance.update(network)
    assert len(cut.values) < len(whole.values)
    # What is pruned has no gradient (a head's out_proj columns are 0), so nothing else is lost.
    left = whole.values[whole.values > 0]
    assert torch.allclose(cut.values[cut.values > 0], left, rtol=1e-3)


def test_a_weights_score_is_its_square_times_the_mean_of_its_squared_gradients(build_model, sample):
    model = build_model()
    importance = WeightImportance(decay=0.5)
    weights, seen = weights_of(model), []
    for factor in (1.0, 3.0):
        model.zero_grad()
        (factor * loss_of(model, sample)).backward()
        importance.update(model)
        squares = torch.cat([weight.grad.flatten() ** 2 for weight in weights])
        seen.append(squares / squares.mean())
    fisher = 0.5 * seen[0] + 0.5 * seen[1]
    expected = torch.cat([weight.flatten() ** 2 for weight in weights]) * fisher
    found = [flat(score()) for score in importance.scores(model)]
    assert [len(score) for score in found] == [weight.numel() for weight in weights]
    assert torch.allclose(torch.cat(found), expected)


def test_before_the_first_gradient_magnitude_decides(build_model):
    model = build_model()
    score, weight = WeightImportance().scores(model)[0], attention_blocks(model)[0].q_proj.weight
    assert torch.allclose(flat(score()), weight.flatten() ** 2)


def reference_update(values, model, decay):
    """The mean as one formula on all weights at once."""
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights_of(model)]
    found = flat(gradients).square()
    mean = found.double().mean().float()
    found = found / mean if mean.isfinite() and mean > 0 else torch.zeros_like(found)
    return found if values is None else values.lerp(found, 1 - decay)


@pytest.mark.parametrize("piece", [100, 1 << 16])
def test_piece_by_piece_the_importance_is_that_of_all_weights_at_once(
    build_model, monkeypatch, piece
):
    monkeypatch.setattr(pieces, "CACHED", piece)
    model, importance, expected = build_model(), WeightImportance(), None
    generator = torch.Generator().manual_seed(3)
    for fault in (None, None, float("inf"), float("nan"), None):
        for weight in weights_of(model)[2:]:  # two have no gradient
            weight.grad = torch.randn(weight.shape, generator=generator)
        if fault:
            weight.grad[0, 0] = fault
        importance.update(model)
        expected = reference_update(expected, model, importance.decay)
        assert torch.allclose(importance.values, expected, rtol=1e-5)


def test_an_update_makes_the_running_mean_in_place(build_model):
    model, importance = build_model(), WeightImportance()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    importance.update(model)
    place = importance.values.data_ptr()
    importance.update(model)
    assert importance.values.data_ptr() == place
    assert importance.values.eq(1).all()
