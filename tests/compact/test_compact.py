"""Cutting: the smaller model computes what the zeroed one does."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from neuroprune_fairseq.cli.compact_report import format_table
from neuroprune_fairseq.compact import compact, cutting, shapes
from neuroprune_fairseq.compact.cost import flops_per_token
from neuroprune_fairseq.compact.modules import ConstantAttention
from neuroprune_fairseq.compact.sizes import head_numbers, per_layer_config, reshape_, set_sizes_
from neuroprune_fairseq.method.pruning import zero_heads_
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

TINY = {"encoder_layers": 2, "decoder_layers": 2}


def randomise_biases_(model, seed=5):
    """fairseq starts with zero biases: without this, folding them would go unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@torch.no_grad()
def prune_(model, heads, neurons):
    """Zero the first ``heads`` heads of every module and ``neurons`` neurons of every MLP."""
    for block in attention_blocks(model):
        zero_heads_(block, torch.arange(heads))
    for block in mlp_blocks(model):
        half = neurons // 2
        block.fc1.weight[:half] = 0.0  # their biases stay: a constant activation
        block.fc2.weight[:, half:neurons] = 0.0
    return model


def sizes_of(model):
    return per_layer_config(model, head_numbers(Namespace(), model))


@torch.no_grad()
def logits(model, sample):
    return model(**sample["net_input"])[0]


def translate(model, sample, beam=3):
    """Tokens of all hypotheses, in fp64: rounding must not decide between two of them."""
    dictionary = model.decoder.dictionary
    generator = SequenceGenerator([model.double()], dictionary, beam_size=beam, max_len_b=12)
    found = generator.generate([model], {"net_input": dict(sample["net_input"])})
    return [hypothesis["tokens"].tolist() for beams in found for hypothesis in beams]


def assert_equal(before, after, sample):
    expected = logits(before, sample)
    assert (logits(after, sample) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert translate(before, sample) == translate(after, sample)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoder_normalize_before": True, "decoder_normalize_before": True},
        {"share_all_embeddings": False, "encoder_embed_dim": 36, "encoder_ffn_embed_dim": 50},
        {"share_all_embeddings": False, "share_decoder_input_output_embed": True},
        {"activation_fn": "gelu", "layernorm_embedding": True},
        {"encoder_learned_pos": True, "decoder_attention_heads": 4},
    ],
    ids=["post-norm", "pre-norm", "unequal widths", "separate", "gelu", "unequal heads"],
)
def test_the_compact_model_equals_the_zeroed_one(build_model, sample, settings):
    model = prune_(randomise_biases_(build_model(**TINY, **settings)), heads=3, neurons=40)

    smaller = compact(model)

    assert_equal(model, smaller, sample)
    widths = {b.fc1.out_features - len(cutting.make_plan(model)[b.name]) for b in mlp_blocks(model)}
    assert widths == {40}
    wanted = {block.name: block.num_heads - 3 for block in attention_blocks(model)}
    assert {name: shapes(smaller)[name] for name in wanted} == wanted


def test_the_given_model_stays_as_it_is(build_model):
    model = prune_(build_model(**TINY), heads=2, neurons=10)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    compact(model)

    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_one_head_and_one_neuron_left_everywhere_is_enough(build_model, sample):
    model = prune_(randomise_biases_(build_model(**TINY)), heads=5, neurons=95)

    smaller = compact(model)

    assert set(shapes(smaller).values()) == {1}
    assert_equal(model, smaller, sample)


def test_modules_without_heads_and_mlps_without_neurons_run_on(build_model, sample):
    model = prune_(randomise_biases_(build_model(**TINY)), heads=6, neurons=96)

    smaller = compact(model)

    constants = [m for m in smaller.modules() if isinstance(m, ConstantAttention)]
    assert len(constants) == 6
    assert attention_blocks(smaller) == []
    assert [size for name, size in shapes(smaller).items() if not name.endswith("attn")] == [1] * 4
    assert_equal(model, smaller, sample)


def test_a_constant_module_gives_even_attention_to_what_is_no_padding():
    module = ConstantAttention(torch.tensor([1.0, 2.0]))
    query, key = torch.zeros(3, 2, 2), torch.zeros(4, 2, 2)
    padding = torch.tensor([[False] * 4, [True, True, False, False]])

    output, weights = module(query, key, key, key_padding_mask=padding, need_weights=True)

    assert output.tolist() == [[[1.0, 2.0]] * 2] * 3
    assert weights[0].tolist() == [[0.25] * 4] * 3
    assert weights[1].tolist() == [[0.0, 0.0, 0.5, 0.5]] * 3


def test_a_constant_module_gives_its_weights_to_every_hypothesis_of_a_beam():
    module = ConstantAttention(torch.tensor([1.0, 2.0]))
    query, key = torch.zeros(1, 6, 2), torch.zeros(4, 2, 2)  # 2 sentences, beam 3
    padding = torch.tensor([[False] * 4, [True, True, False, False]])

    weights = module(query, key, key, key_padding_mask=padding)[1]

    assert weights.shape == (6, 1, 4)
    assert weights[:, 0, 0].tolist() == [0.25] * 3 + [0.0] * 3


def test_a_head_with_only_a_v_bias_is_folded_into_the_out_proj_bias(build_model, sample):
    model = randomise_biases_(build_model(**TINY))
    block = attention_blocks(model)[0]
    with torch.no_grad():
        block.head_rows(block.v_proj.weight)[2] = 0.0
    assert measure(model)["heads_kept"] == measure(model)["heads_total"]

    smaller = compact(model)

    found = attention_blocks(smaller)[0]
    expected = block.out_proj.bias + block.out_proj.weight[:, 16:24] @ block.v_proj.bias[16:24]
    assert found.num_heads == 5
    assert torch.allclose(found.out_proj.bias, expected, atol=1e-6)
    assert_equal(model, smaller, sample)


def test_a_neuron_without_input_weights_is_folded_into_the_fc2_bias(build_model):
    model = randomise_biases_(build_model(**TINY))
    mlp = mlp_blocks(model)[0]
    with torch.no_grad():
        mlp.fc1.weight[7] = 0.0
        mlp.fc1.bias[7] = 2.0

    found = mlp_blocks(compact(model))[0]

    assert found.fc1.out_features == 95
    expected = mlp.fc2.bias + 2.0 * mlp.fc2.weight[:, 7]
    assert torch.allclose(found.fc2.bias, expected, atol=1e-6)


def test_a_dense_model_stays_whole(build_model, sample):
    model = randomise_biases_(build_model(**TINY))

    same = compact(model)

    assert shapes(same) == shapes(model)
    assert torch.equal(logits(same, sample), logits(model, sample))


def test_a_compact_model_can_be_pruned_and_made_compact_again(build_model, sample):
    once = compact(prune_(randomise_biases_(build_model(**TINY)), heads=2, neurons=20))
    prune_(once, heads=1, neurons=10)

    twice = compact(once)

    assert {size for name, size in shapes(twice).items() if name.endswith("attn")} == {3}
    assert {size for name, size in shapes(twice).items() if not name.endswith("attn")} == {66}
    assert_equal(once, twice, sample)
    assert shapes(compact(twice)) == shapes(twice)


@torch.no_grad()
def test_wide_models_read_only_the_input_dimensions_that_are_not_zero(
    build_model, sample, monkeypatch
):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)
    model = prune_(randomise_biases_(build_model(**TINY)), heads=1, neurons=0)
    for block in attention_blocks(model):
        for projection in (block.q_proj, block.k_proj, block.v_proj):
            projection.weight[:, ::2] = 0.0

    once = compact(model)

    assert sizes_of(once)["decoder.layers.1"]["encoder_attn"]["inputs"] == list(range(1, 48, 2))
    assert_equal(model, once, sample)

    for block in attention_blocks(once):
        for projection in (block.q_proj, block.k_proj, block.v_proj):
            projection.weight[:, :10] = 0.0
    twice = compact(once)
    assert sizes_of(twice)["encoder.layers.0"]["self_attn"]["inputs"] == list(range(21, 48, 2))
    assert_equal(once, twice, sample)


def test_narrow_models_read_all_input_dimensions(build_model):
    model = build_model(**TINY)
    with torch.no_grad():
        for block in attention_blocks(model):
            for projection in (block.q_proj, block.k_proj, block.v_proj):
                projection.weight[:, ::2] = 0.0

    assert shapes(compact(model)) == shapes(model)


def test_the_config_names_only_what_differs_and_heads_by_their_first_numbers(build_model):
    model = build_model(**TINY)
    zero_heads_(attention_blocks(model)[0], torch.tensor([1, 4]))
    zero_heads_(attention_blocks(model)[5], torch.arange(6))
    with torch.no_grad():
        mlp_blocks(model)[1].fc2.weight[:, 5:] = 0.0
    plan, settings = cutting.make_plan(model), Namespace()
    once = compact(model, plan)
    set_sizes_(settings, per_layer_config(once, head_numbers(settings, model, plan)))
    assert settings.per_layer_config == {
        "encoder.layers.0": {"self_attn": {"num_attention_heads": 4, "heads": [0, 2, 3, 5]}},
        "encoder.layers.1": {"intermediate_size": 5},
        "decoder.layers.1": {"encoder_attn": {"num_attention_heads": 0, "heads": []}},
    }
    zero_heads_(attention_blocks(once)[0], torch.tensor([0, 2]))
    numbers = head_numbers(settings, once, cutting.make_plan(once))
    assert list(numbers.items())[0] == ("encoder.layers.0.self_attn", [2, 5])
    assert list(numbers.items())[-1] == ("decoder.layers.1.encoder_attn", [])


def test_a_fresh_model_takes_the_sizes_of_a_compact_one(build_model):
    once = compact(prune_(build_model(**TINY), heads=2, neurons=30))
    fresh = build_model(**TINY, seed=7)
    reshape_(fresh, sizes_of(once))
    assert shapes(fresh) == shapes(once)
    assert sizes_of(fresh) == sizes_of(once)


@pytest.mark.parametrize(
    "config",
    [
        "gone",
        {"encoder.layers.0": 3},
        {"encoder.layers.9": {"intermediate_size": 2}},
        {"encoder.layers.0": {"intermediate_size": 0}},
        {"encoder.layers.0": {"intermediate_size": 97}},
        {"encoder.layers.0": {"encoder_attn": {"num_attention_heads": 2, "heads": [0, 1]}}},
        {"encoder.layers.0": {"self_attn": {"num_attention_heads": 7, "heads": list(range(7))}}},
        {"encoder.layers.0": {"self_attn": {"num_attention_heads": "2", "heads": [0, 1]}}},
        {"encoder.layers.0": {"self_attn": {"num_attention_heads": 2, "heads": [0]}}},
        {"encoder.layers.0": {"self_attn": {"num_attention_heads": 2, "heads": [1, 0]}}},
        {"encoder.layers.0": {"self_attn": {"num_attention_heads": 2}}},
        {"encoder.layers.0": {"self_attn": {"heads": [0]}}},
        {"encoder.layers.0": {"self_attn": {"inputs": [48]}}},
        {"encoder.layers.0": {"self_attn": {"inputs": []}}},
        {"encoder.layers.0": {"inputs": [1]}},
    ],
    ids=str,
)
def test_sizes_that_a_model_cannot_have_are_refused(build_model, config):
    model = build_model(**TINY)
    whole = shapes(model)
    with pytest.raises(ValueError, match="encoder.layers|per_layer_config"):
        reshape_(model, config)
    assert shapes(model) == whole


def test_flops_are_counted_as_by_hand(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    vocabulary, linear, mlp, mixing = 24, 2 * 48 * 48, 2 * 2 * 48 * 96, 4 * 48 * 10

    source, target = flops_per_token(model, length=10)

    assert len(model.decoder.dictionary) == vocabulary
    # Encoder: q, k, v, out and the MLP; then k and v of cross-attention.
    assert source == 4 * linear + mixing + mlp + 2 * linear
    # Decoder: self q, k, v, out, cross q, out, the MLP, the vocabulary.
    assert target == 6 * linear + 2 * mixing + mlp + 2 * 48 * vocabulary


def test_the_table_names_every_layer_with_its_heads_and_neurons(build_model):
    model = prune_(build_model(**TINY), heads=2, neurons=10)

    table = format_table(model, compact(model)).splitlines()

    rows = {line.rsplit(maxsplit=4)[0].strip(): line.split()[-4:] for line in table[1:]}
    assert rows["decoder.layers.1.encoder_attn heads"] == ["6", "4", "67", "%"]
    assert rows["encoder.layers.0 neurons"] == ["96", "86", "90", "%"]
    assert {"parameters", "bytes", "FLOPs per source token"} <= rows.keys()


def test_training_a_compact_model_lowers_its_loss(build_model, sample):
    model = compact(prune_(build_model(**TINY), heads=5, neurons=30)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        output = model(**sample["net_input"])[0]
        loss = torch.nn.functional.cross_entropy(output.transpose(1, 2), sample["target"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
