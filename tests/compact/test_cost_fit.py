"""Tables from timed shapes: what is timed, and that an additive engine is found again."""

import numpy as np
import pytest
import torch

from neuroprune_fairseq.compact.cost_fit import cut_to, design, fit, take_turns, varied
from neuroprune_fairseq.compact.cost_table import LayerShape, layer_shapes

LAYERS, HEADS, NEURONS = {"encoder": 3, "decoder": 4}, 4, 16


def dense(layers=LAYERS):
    """Shapes of a dense model, made by hand."""
    found = []
    for side, number in layers.items():
        kinds = ["encoder_self"] if side == "encoder" else ["decoder_self", "decoder_cross"]
        heads = dict.fromkeys(kinds, HEADS)
        found += [LayerShape(f"{side}.layers.{i}", heads, NEURONS) for i in range(number)]
    return found


def additive_engine(shapes, per_stack):
    """Milliseconds of an engine whose parts add up; heads cost unevenly."""
    of_heads = {
        "encoder_self": [0.3, 0.5, 0.9, 1.0, 1.8],
        "decoder_self": [0.2, 0.8, 1.0, 1.4, 1.5],
        "decoder_cross": [0.2, 0.8, 1.0, 1.4, 1.5] if per_stack else [0.0, 0.7, 0.8, 1.7, 1.9],
    }
    total = 20.0
    for shape in shapes:
        for kind, heads in shape.heads.items():
            mates = [s for s in shapes if s.name.split(".")[0] == shape.name.split(".")[0]]
            most = max(1, *(n for s in mates for n in s.heads.values()))
            total += of_heads[kind][most if per_stack else heads]
        slope, start = (0.05, 1.0) if shape.name.startswith("encoder") else (0.2, 2.0)
        total += start + slope * shape.neurons
    return total


def random_shapes(seed, least):
    draw = np.random.default_rng(seed)
    for shape in dense():
        if draw.random() < 0.7:
            heads = {kind: int(draw.integers(least, HEADS + 1)) for kind in shape.heads}
            yield LayerShape(shape.name, heads, int(draw.integers(1, NEURONS + 1)))


@pytest.mark.parametrize("per_stack", [False, True])
def test_an_additive_engine_is_priced_exactly(per_stack):
    shapes = design(dense(), per_stack)
    timers = [lambda each=each: additive_engine(each, per_stack) for each in shapes]

    table = fit(shapes, take_turns(timers, 2).min(axis=0), per_stack)

    for each in [*shapes, *(list(random_shapes(s, int(per_stack))) for s in range(20))]:
        assert table.cost(each) == pytest.approx(additive_engine(each, per_stack), rel=1e-9)
    assert table.fixed == pytest.approx(20)
    assert (table.unit, table.per_stack) == ("ms per sentence", per_stack)


@pytest.mark.parametrize("per_stack", [False, True])
def test_noise_makes_no_cost_negative_or_falling(per_stack):
    shapes = design(dense(), per_stack)
    noise = np.random.default_rng(1).uniform(0.5, 1.5, len(shapes))

    table = fit(shapes, noise, per_stack)

    lists = [*table.attention.values(), *([c for _, c in points] for points in table.mlp.values())]
    assert min(table.fixed, *table.layer.values()) >= 0
    assert all(costs == sorted(costs) and costs[0] >= 0 for costs in lists)


def test_the_design_varies_every_part_by_itself():
    whole = dense()

    found = design(whole, per_stack=False)

    assert found[0] == whole
    for kind in ("encoder_self", "decoder_self", "decoder_cross"):
        for heads in range(HEADS):
            assert varied(whole, heads={kind: heads}) in found
    for side in LAYERS:
        for neurons in (1, 2, 4, 8):
            assert varied(whole, neurons={side: neurons}) in found
        for layers in (1, LAYERS[side] // 2):
            assert varied(whole, layers={side: layers}) in found


def test_an_engine_that_pads_gets_no_module_without_heads_and_one_number_a_stack():
    found = design(dense(), per_stack=True)

    by_stack = [{(s.side, n) for s in each for n in s.heads.values()} for each in found]
    assert all(len(numbers) == 2 for numbers in by_stack)
    assert {n for numbers in by_stack for _, n in numbers} == {1, 2, 3, 4}


def test_a_cut_model_has_the_shapes_asked_for_and_shares_what_is_whole(build_model, sample):
    model = build_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    asked = [
        LayerShape("encoder.layers.1", {"encoder_self": 2}, 5),
        LayerShape("decoder.layers.0", {"decoder_self": 0, "decoder_cross": 1}, 1),
        LayerShape("decoder.layers.4", {"decoder_self": 6, "decoder_cross": 3}, 16),
    ]

    small = cut_to(model, asked)

    found = [(s.stack, s.heads, s.neurons) for s in layer_shapes(small)]
    assert found == [(s.stack, s.heads, s.neurons) for s in asked]
    assert small.decoder.num_layers == 2
    assert torch.isfinite(small(**sample["net_input"])[0]).all()
    assert small.encoder.embed_tokens.weight is model.encoder.embed_tokens.weight
    assert small.decoder.layers[1].self_attn.q_proj.weight is (
        model.decoder.layers[4].self_attn.q_proj.weight
    )
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_everyone_has_one_turn_a_round_and_each_round_begins_with_another():
    turns = []
    timers = [lambda name=name: turns.append(name) or ord(name) for name in "abcd"]

    times = take_turns(timers, 2)

    assert "".join(turns) == "abcdcdab"
    assert times.tolist() == [[97, 98, 99, 100]] * 2
