"""The penalty's scale, and that the logged loss stays the plain one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion

from neuroprune_fairseq.method.penalties import attention_penalty, mlp_penalty
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

TASK = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: 1))


def criterion(name="label_smoothed_cross_entropy_neuroprune", **settings):
    config = CRITERION_DATACLASS_REGISTRY[name](sentence_avg=False, label_smoothing=0.1, **settings)
    return CRITERION_REGISTRY[name].build_criterion(config, TASK)


def plain():
    return LabelSmoothedCrossEntropyCriterion(TASK, sentence_avg=False, label_smoothing=0.1)


def part(sample, rows):
    return {
        "net_input": {name: value[rows] for name, value in sample["net_input"].items()},
        "target": sample["target"][rows],
        "ntokens": int(sample["target"][rows].numel()),
    }


def test_training_loss_is_the_plain_one_plus_sample_size_times_the_penalty(build_model, sample):
    model = build_model(dropout=0.0).train()
    weights = {"attn_penalty_weight": 0.03, "mlp_penalty_weight": 0.2, "near_zero": 0.05}
    loss, sample_size, logged = criterion(**weights)(model, sample)
    expected, _, _ = plain()(model, sample)
    penalty = 0.03 * attention_penalty(attention_blocks(model))
    penalty += 0.2 * mlp_penalty(mlp_blocks(model), 0.05)
    assert sample_size == 21
    assert torch.allclose(loss, expected + 21 * penalty)
    assert torch.equal(logged["loss"], expected.data)


def test_validation_loss_is_the_plain_one(build_model, sample):
    model = build_model().eval()
    loss, _, _ = criterion(attn_penalty_weight=5.0, mlp_penalty_weight=5.0)(model, sample)
    assert torch.equal(loss, plain()(model, sample)[0])


@pytest.mark.parametrize("rows", [(slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3))])
def test_two_micro_batches_give_the_gradient_of_the_joined_batch(build_model, sample, rows):
    model = build_model(dropout=0.0).train()
    penalised = criterion(attn_penalty_weight=0.5, mlp_penalty_weight=2.0, near_zero=0.05)

    def gradient(batches):
        model.zero_grad()
        total = 0
        for batch in batches:
            loss, sample_size, _ = penalised(model, batch)
            loss.backward()
            total += sample_size
        return [parameter.grad / total for parameter in model.parameters()]  # as the trainer

    joined = gradient([sample])
    for ours, whole in zip(gradient([part(sample, rows[0]), part(sample, rows[1])]), joined):
        assert torch.allclose(ours, whole, atol=1e-6)


def test_penalty_gradient_per_token_does_not_depend_on_the_batch(build_model, sample):
    model = build_model(dropout=0.0).train()

    def penalty_gradient(batch):
        gradients = []
        for one in (criterion(attn_penalty_weight=0.5), plain()):
            model.zero_grad()
            loss, sample_size, _ = one(model, batch)
            loss.backward()
            gradients.append(attention_blocks(model)[3].q_proj.weight.grad / sample_size)
        return gradients[0] - gradients[1]

    small = penalty_gradient(part(sample, slice(0, 1)))
    assert torch.allclose(small, penalty_gradient(sample), atol=1e-5)
    assert small.abs().max() > 1e-3


def test_without_weights_there_is_no_penalty_in_the_graph(build_model):
    assert criterion().penalties.in_loss(build_model()) is None


@pytest.mark.parametrize("flag", ["attn_penalty_weight", "mlp_penalty_weight", "near_zero"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_wrong_weight_is_refused_in_one_line_that_names_its_flag(flag, value):
    with pytest.raises(SystemExit, match=f"--{flag.replace('_', '-')} .*>= 0") as exit_:
        criterion(**{flag: value})
    assert "\n" not in str(exit_.value)


def test_the_l1_penalty_adds_the_norm_of_all_prunable_weights(build_model, sample):
    model = build_model(dropout=0.0).train()
    expected, _, _ = plain()(model, sample)
    loss, sample_size, logged = criterion(l1_penalty_weight=0.01)(model, sample)
    norm = 0.0
    for name, parameter in model.named_parameters():
        if any(f"{part}.weight" in name for part in ("q_proj", "k_proj", "v_proj", "fc1", "fc2")):
            norm += parameter.abs().sum().item()
    assert sample_size == 21
    assert loss.item() == pytest.approx(expected.item() + 21 * 0.01 * norm, rel=1e-5)
    assert logged["loss"].item() == pytest.approx(expected.item())
