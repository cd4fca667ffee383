"""A layer is worth what the loss rises by without it."""

from __future__ import annotations

import copy

import pytest
import torch
from test_importance import loss_of

from neuroprune_fairseq.compact.cutting import cut_, plan_of_pruned
from neuroprune_fairseq.method.pruning import zero_layers_
from neuroprune_fairseq.pruners.base import Run
from neuroprune_fairseq.pruners.layer_losses import LayerLosses, left_out
from neuroprune_fairseq.pruners.parts import Parts

LAYERS = ["encoder.layers.2", "decoder.layers.4"]


def loss_without(model, sample, names):
    """Of the model that these layers are cut out of."""
    model = copy.deepcopy(model)
    zero_layers_(model, names)
    cut_(model, plan_of_pruned(model))
    return loss_of(model, sample).item()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_layer_left_out_is_a_layer_cut_out(build_model, sample, pre_norm):
    norm = {"encoder_normalize_before": pre_norm, "decoder_normalize_before": pre_norm}
    model = build_model(**norm).double()
    whole = loss_of(model, sample).item()
    with left_out([model.encoder.layers[2], model.decoder.layers[4]]):
        found = loss_of(model, sample).item()
    assert found == pytest.approx(loss_without(model, sample, LAYERS), rel=1e-9)
    assert loss_of(model, sample).item() == whole != found


def run_of(model, sample, **more):
    return Run(model, loss_of_batch=lambda: loss_of(model, sample).detach().double(), **more)


def measured(losses, run, layers, size):
    losses.measure(run, layers, size)
    losses.end_update(run)


def test_the_rise_is_per_token_over_micro_batches_and_means_half_of_what_was(build_model, sample):
    model, losses = build_model().double(), LayerLosses()
    layers = Parts(model).removable
    run = run_of(model, sample)
    losses.measure(run, layers, 30)
    run.begins_update = False
    losses.measure(run, layers, 0)  # a batch that does not count
    losses.measure(run, layers, 10)
    losses.end_update(run)
    whole = loss_of(model, sample).item()
    rises = {name: loss_without(model, sample, [name]) - whole for name in layers}
    expected = {name: 2 * rise / 40 for name, rise in rises.items()}
    assert losses.values == pytest.approx(expected, rel=1e-6, abs=1e-12)
    run.begins_update = True
    measured(losses, run, layers, 5)
    expected = {name: (value + rises[name] / 5) / 2 for name, value in expected.items()}
    assert losses.values == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_it_is_measured_on_what_is_left_when_layers_are_gone(build_model, sample):
    model, losses = build_model().double(), LayerLosses()
    zero_layers_(model, LAYERS)  # not cut out yet
    measured(losses, run_of(model, sample), Parts(model).removable, 1)
    whole = loss_without(model, sample, LAYERS)
    more = loss_without(model, sample, [*LAYERS, "encoder.layers.0"])
    assert losses.values["encoder.layers.0"] == pytest.approx(more - whole, rel=1e-6)
    assert not losses.values.keys() & set(LAYERS)


def test_workers_sum_what_they_measured_and_an_overflow_changes_nothing(build_model, sample):
    model, losses = build_model().double(), LayerLosses()
    run = run_of(model, sample, sum_over_workers=lambda sums: 2 * sums)
    measured(losses, run, Parts(model).removable, 4)
    rise = loss_without(model, sample, LAYERS[:1]) - loss_of(model, sample).item()
    assert losses.values[LAYERS[0]] == pytest.approx(rise / 4, rel=1e-6)
    before = dict(losses.values)
    run.loss_of_batch = lambda: torch.tensor(float("inf"), dtype=torch.float64)
    measured(losses, run, Parts(model).removable, 4)
    assert losses.values == before


def test_on_the_scale_of_their_parts_all_layers_are_worth_what_all_parts_are():
    losses = LayerLosses()
    losses.values = {"a": 0.3, "b": 0.1, "c": -0.2}
    parts = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5]), "c": torch.tensor([0.25] * 2)}
    # The parts sum to 4, the rises to 0.4; c would be worth nothing, but has a part of 0.25.
    assert losses.in_units_of(parts) == pytest.approx({"a": 3.0, "b": 1.0, "c": 0.25})


def test_layers_are_measured_in_turn_where_there_are_many(build_model, sample, monkeypatch):
    monkeypatch.setattr("neuroprune_fairseq.pruners.layer_losses.AT_A_TIME", 5)
    model, losses = build_model(), LayerLosses()
    layers, run = Parts(model).removable, run_of(model, sample)
    for _ in range(3):
        measured(losses, run, layers, 1)
    assert list(losses.values) == [*layers[10:], *layers[:10]]
