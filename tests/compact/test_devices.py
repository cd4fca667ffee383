"""Every tensor is made where the weights are; a default device that holds no values shows it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from neuroprune_fairseq.compact import compact, cutting
from neuroprune_fairseq.method.head_selection import keep_heads_
from neuroprune_fairseq.method.importance import HeadImportance, WeightImportance
from neuroprune_fairseq.method.pruning import eliminate_redundant_heads, prune_idle_neurons_
from neuroprune_fairseq.method.weight_selection import sparsify_
from neuroprune_fairseq.structure import attention_blocks


def edited(model):
    """The model after every edit that there is, and its compact copy."""
    model = copy.deepcopy(model)
    eliminate_redundant_heads(model, 0.33)
    keep_heads_(model, 80, "redundancy", HeadImportance(), "out_proj")
    importance = HeadImportance(values=attention_blocks(model)[0].q_proj.weight.new_ones(108))
    keep_heads_(model, 60, "both", importance, "none")
    sparsify_(model, "mlp", 0.999, WeightImportance().scores(model))
    prune_idle_neurons_(model)
    return model, compact(model)


def test_no_tensor_is_made_on_the_default_device(build_model, monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)
    model = build_model()
    with torch.no_grad():
        for block in attention_blocks(model):
            for weight in block.prunable_weights:
                weight[:, 20:] = 0.0
    expected = edited(model)
    with torch.device("meta"):
        found = edited(model)
    for before, after in zip(expected, found):
        assert before.state_dict().keys() == after.state_dict().keys()
        for name, value in before.state_dict().items():
            assert torch.equal(after.state_dict()[name], value), name
    assert cutting.shapes(expected[1]) == cutting.shapes(found[1])


@pytest.mark.parametrize(
    ("kind", "size"), [(HeadImportance, 108), (WeightImportance, 18 * 3 * 48**2 + 24 * 48 * 96)]
)
def test_what_a_checkpoint_holds_follows_the_model_to_its_device(build_model, kind, size):
    model: nn.Module = build_model().to("meta")
    importance = kind(values=torch.ones(size))
    if kind is WeightImportance:
        assert all(part.is_meta for score in importance.scores(model) for part in score())
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    importance.update(model)
    assert importance.values.is_meta
