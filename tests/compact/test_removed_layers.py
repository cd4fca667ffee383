"""Layers that are cut out as a whole: what is left computes the same, and knows what it was."""

from __future__ import annotations

import copy
from argparse import Namespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from neuroprune_fairseq.cli.compact_report import format_table
from neuroprune_fairseq.compact import compact, shapes
from neuroprune_fairseq.compact.cost_table import flops_table, layer_shapes, parameter_table
from neuroprune_fairseq.compact.cutting import cut_, cuts_something, make_plan, plan_of_pruned
from neuroprune_fairseq.compact.modules import RemovedLayer
from neuroprune_fairseq.compact.optimizer import cut_like_parameters, trained_parameters
from neuroprune_fairseq.compact.sizes import head_numbers, per_layer_config, reshape_
from neuroprune_fairseq.method.pruning import pruned_layers, zero_layers_
from neuroprune_fairseq.method.sparsity import full_sizes, measure
from neuroprune_fairseq.structure import full_num_heads

PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
SIZES = {"encoder_layers": 3, "decoder_layers": 3}
ENCODER, DECODER = ["encoder.layers.1"], ["decoder.layers.0", "decoder.layers.2"]


def randomise_biases_(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def pruned(build_model):
    """Builds a model some of whose layers add nothing."""

    def build(names, **settings):
        model = randomise_biases_(build_model(**{**SIZES, **settings}))
        zero_layers_(model, names)
        return model

    return build


def cut(model):
    """As --compact in training cuts it."""
    smaller = copy.deepcopy(model)
    cut_(smaller, plan_of_pruned(smaller))
    return smaller


def without(model, names):
    """The same model, made by deleting layers from their lists."""
    model = copy.deepcopy(model)
    for name in sorted(names, reverse=True):
        side, _, index = name.split(".")
        del getattr(model, side).layers[int(index)]
    model.decoder.num_layers = len(model.decoder.layers)
    return model


def translations(model, sample, **settings):
    generator = SequenceGenerator(
        [model], model.decoder.dictionary, beam_size=4, max_len_a=1, max_len_b=5, **settings
    )
    found = generator.generate([model], {"net_input": dict(sample["net_input"])})
    return [(h["tokens"].tolist(), round(float(h["score"]), 5)) for beam in found for h in beam]


@pytest.mark.parametrize("names", [ENCODER, DECODER, ENCODER + DECODER], ids=str)
@torch.no_grad()
def test_in_a_pre_norm_model_the_output_stays_without_the_layers(pruned, sample, names):
    model = pruned(names, **PRE_NORM)
    for smaller in (compact(model), cut(model)):
        layers = [name for name, m in smaller.named_modules() if isinstance(m, RemovedLayer)]
        assert layers == names
        assert not [name for name in smaller.state_dict() if name.startswith(tuple(names))]
        expected, found = (m(**sample["net_input"])[0] for m in (model, smaller))
        assert torch.allclose(expected, found, atol=1e-5)
        assert translations(model, sample) == translations(smaller, sample)


@torch.no_grad()
def test_a_whole_encoder_or_decoder_may_go(pruned, sample):
    model = pruned([f"{side}.layers.{n}" for side in ("encoder", "decoder") for n in range(3)],
                   **PRE_NORM)  # fmt: skip
    smaller = compact(model)
    assert layer_shapes(smaller) == []
    expected, found = (m(**sample["net_input"])[0] for m in (model, smaller))
    assert torch.allclose(expected, found, atol=1e-5)
    assert translations(model, sample) == translations(smaller, sample)


@pytest.mark.parametrize("names", [ENCODER, DECODER, ENCODER + DECODER], ids=str)
@torch.no_grad()
def test_a_removed_layer_computes_as_if_its_index_were_not_there(pruned, sample, names):
    model = pruned(names)  # layer norms come after the sublayers
    smaller, expected = cut(model), without(model, names)
    assert torch.equal(smaller(**sample["net_input"])[0], expected(**sample["net_input"])[0])
    assert translations(smaller, sample) == translations(expected, sample)
    whole = model(**sample["net_input"])[0]
    assert not torch.allclose(whole, smaller(**sample["net_input"])[0], atol=1e-2)


@torch.no_grad()
def test_where_norms_come_after_compacting_keeps_layers_as_constants_and_the_output(pruned, sample):
    model = pruned(ENCODER + DECODER)
    smaller = compact(model)
    assert torch.allclose(model(**sample["net_input"])[0], smaller(**sample["net_input"])[0],
                          atol=1e-5)  # fmt: skip
    assert not any(isinstance(module, RemovedLayer) for module in smaller.modules())
    assert shapes(smaller)["encoder.layers.1"] == 1
    # What is left of them is still known to be pruned, and goes where training may take it out.
    assert pruned_layers(smaller) == ENCODER + DECODER
    assert torch.equal(cut(smaller)(**sample["net_input"])[0],
                       cut(model)(**sample["net_input"])[0])  # fmt: skip


def test_the_sides_are_told_apart_where_only_one_has_its_norms_before(pruned):
    smaller = compact(pruned(ENCODER + DECODER, encoder_normalize_before=True))
    gone = [name for name, m in smaller.named_modules() if isinstance(m, RemovedLayer)]
    assert gone == ENCODER


def test_what_is_gone_still_counts_as_zero(pruned):
    model = pruned(ENCODER + DECODER)
    smaller = cut(model)
    assert measure(smaller) == measure(model) and full_sizes(smaller) == full_sizes(model)
    assert full_num_heads(smaller) == full_num_heads(model) == 6 * 9
    assert [*shapes(smaller)] == [*shapes(model)]
    gone = {name for name, size in shapes(smaller).items() if size == 0}
    assert gone == {name for name in shapes(model) if name.startswith((*ENCODER, *DECODER))}
    twice = copy.deepcopy(smaller)
    cut_(twice, plan_of_pruned(twice))
    assert not cuts_something(plan_of_pruned(smaller), smaller) and shapes(twice) == shapes(smaller)
    rows = {
        line.split("  ")[0]: line.split()[-4:] for line in format_table(model, smaller).split("\n")
    }
    assert rows["decoder.layers.2 neurons"] == ["96", "0", "0", "%"]
    assert rows["decoder.layers.2.encoder_attn heads"] == ["6", "0", "0", "%"]


def test_a_layer_that_was_cut_before_it_goes_is_remembered_as_it_began(pruned):
    model = pruned(())
    cut_(model, {**make_plan(model), "encoder.layers.1": torch.arange(7),
                 "encoder.layers.1.self_attn": torch.arange(0)})  # fmt: skip
    whole = full_sizes(model)
    zero_layers_(model, ENCODER)
    smaller = cut(model)
    assert isinstance(smaller.encoder.layers[1], RemovedLayer)
    assert full_sizes(smaller) == whole and full_num_heads(smaller) == 6 * 9


def test_costs_are_those_of_the_layers_that_are_left(pruned):
    smaller = cut(pruned(ENCODER + DECODER))
    left = ["encoder.layers.0", "encoder.layers.2", "decoder.layers.1"]
    assert [shape.name for shape in layer_shapes(smaller)] == left
    assert parameter_table(smaller).cost(layer_shapes(smaller)) == pytest.approx(
        sum(parameter.numel() for parameter in smaller.parameters())
    )
    dense = pruned(())
    for table in (parameter_table(dense), flops_table(dense)):
        shorter = [shape for shape in layer_shapes(dense) if shape.name in left]
        assert table.cost(shorter) < table.cost(layer_shapes(dense))


def test_sizes_name_it_and_build_it_again(pruned, build_model):
    smaller = cut(pruned(ENCODER + DECODER))
    numbers = head_numbers(Namespace(), smaller)
    config = per_layer_config(smaller, numbers)
    assert config == {name: {"removed": True} for name in ENCODER + DECODER}
    assert numbers["decoder.layers.2.encoder_attn"] == []
    assert numbers["decoder.layers.1.encoder_attn"] == [0, 1, 2, 3, 4, 5]
    again = build_model(**SIZES)
    reshape_(again, config)
    assert shapes(again) == shapes(smaller)
    again.load_state_dict(smaller.state_dict(), strict=True)


@pytest.mark.parametrize(
    "config",
    [
        {"encoder.layers.1": {"removed": False}},
        {"encoder.layers.1": {"removed": 1}},
        {"encoder.layers.9": {"removed": True}},
        {"encoder": {"removed": True}},
        {"encoder.layers.1": {"removed": True, "intermediate_size": 3}},
    ],
    ids=str,
)
def test_a_damaged_note_of_a_removed_layer_is_refused(build_model, config):
    model = build_model(**SIZES)
    whole = shapes(model)
    with pytest.raises(ValueError, match="removed .*encoder"):
        reshape_(model, config)
    assert shapes(model) == whole


def test_moments_of_what_is_gone_go_and_the_others_stay(pruned):
    model = pruned(ENCODER + DECODER)
    parameters = trained_parameters(model)
    moments = {name: torch.rand_like(parameter) for name, parameter in parameters.items()}
    found = cut_like_parameters(moments, model, plan_of_pruned(model))
    gone = tuple(f"{name}." for name in ENCODER + DECODER)
    assert [*found] == [name for name in moments if not name.startswith(gone)]
    assert all(torch.equal(found[name], moments[name]) for name in found)


@torch.no_grad()
def test_attention_of_a_last_layer_that_is_gone_is_even_over_the_source(pruned, sample):
    smaller = cut(pruned(DECODER))
    inputs = sample["net_input"]
    inputs["src_tokens"][0, :3] = smaller.encoder.padding_idx
    attention = smaller(**inputs)[1]["attn"][0]  # (batch, target, source)
    assert attention.shape == (3, 7, 7)
    assert torch.allclose(attention[0, 4], torch.tensor([0.0] * 3 + [0.25] * 4))
    assert torch.allclose(attention[1:], torch.full((2, 7, 7), 1 / 7))


@torch.no_grad()
def test_hidden_states_and_results_of_mlps_are_as_many_as_before(pruned, sample):
    model = pruned(ENCODER, **PRE_NORM)
    for layer in model.encoder.layers:
        layer.return_fc = True
    tokens = sample["net_input"]["src_tokens"]
    whole, found = (m.encoder(tokens, return_all_hiddens=True) for m in (model, cut(model)))
    for part in ("encoder_states", "fc_results"):
        assert len(found[part]) == len(whole[part])
        for expected, state in zip(whole[part], found[part]):
            assert torch.allclose(expected, state, atol=1e-5)


def test_layer_drop_draws_as_many_numbers_as_before(pruned, sample):
    model = pruned(ENCODER + DECODER, encoder_layerdrop=0.5, decoder_layerdrop=0.5, **PRE_NORM)
    losses = []
    for network in (model, cut(model)):
        network.train()
        for module in network.modules():
            if (
                hasattr(module, "p")
                and isinstance(module.p, float)
                and "Dropout" in str(type(module))
            ):
                module.p = 0.0
        torch.manual_seed(3)
        losses.append([network(**sample["net_input"])[0].sum().item() for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3) and len({*losses[0]}) > 1
