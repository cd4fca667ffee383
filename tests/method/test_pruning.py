"""Algorithm 2, and zero as a fixed point."""

from __future__ import annotations

import pytest
import torch

from neuroprune_fairseq.method.pruning import (
    eliminate_redundant_heads,
    prune_idle_neurons_,
    pruned_heads,
    pruned_neurons,
    zero_heads_,
    zero_neurons_,
    zero_small_weights_,
)
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.method.zero_mask import ZeroMask
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


@torch.no_grad()
def copy_head_(block, source, target):
    """Make head ``target`` equal to ``source`` in all that it computes."""
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        for tensor in (projection.weight, projection.bias):
            rows = block.head_rows(tensor)
            rows[target] = rows[source]


@torch.no_grad()
def randomise_biases_(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1)


def output(model, sample):
    with torch.no_grad():
        return model(**sample["net_input"])[0]


def loss_of(model, sample):
    logits = model(**sample["net_input"])[0]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"].flatten())


@pytest.mark.parametrize("index", [0, 6, 7])
def test_a_duplicated_head_is_merged_and_the_output_stays(build_model, sample, index):
    model = build_model()
    randomise_biases_(model)
    block = attention_blocks(model)[index]
    copy_head_(block, source=4, target=1)
    before = output(model, sample)
    records = eliminate_redundant_heads(model, threshold=1e-6)
    assert records[index]["replaced"] == {1: 4}
    assert records[index]["heads_kept"] == [0, 2, 3, 4, 5]
    assert records[index]["smallest_distance"] == 0.0
    assert pruned_heads(block).tolist() == [1]
    assert torch.allclose(output(model, sample), before, atol=1e-5)
    assert measure(model)["heads_kept"] == 107


def test_without_merging_the_output_changes(build_model, sample):
    model = build_model()
    copy_head_(attention_blocks(model)[0], source=4, target=1)
    before = output(model, sample)
    eliminate_redundant_heads(model, threshold=1e-6, merge="none")
    assert not torch.allclose(output(model, sample), before, atol=1e-3)


def test_heads_at_exactly_the_threshold_are_similar(build_model):
    model = build_model()
    blocks = attention_blocks(model)
    copy_head_(blocks[0], source=4, target=1)
    copy_head_(blocks[8], source=2, target=0)
    with torch.no_grad():
        blocks[8].k_proj.weight[0, 0] = 0.25
        blocks[8].k_proj.weight[16, 0] = 0.125
    below = eliminate_redundant_heads(model, threshold=0.0)
    assert [record["module"] for record in below] == [block.name for block in blocks]
    assert below[0]["replaced"] == {1: 4} and below[8]["replaced"] == {}
    assert below[8]["smallest_distance"] == 0.125
    assert eliminate_redundant_heads(model, threshold=0.124)[8]["replaced"] == {}
    (record,) = (r for r in eliminate_redundant_heads(model, threshold=0.125) if r["replaced"])
    assert record == {
        **{"module": blocks[8].name, "replaced": {0: 2}, "heads_kept": [1, 2, 3, 4, 5]},
        "smallest_distance": 0.125,
    }


def test_distinct_heads_stay_to_the_bit(build_model):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    records = eliminate_redundant_heads(model, threshold=0.01)
    assert all(record["replaced"] == {} for record in records)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_head_always_stays_the_last(build_model):
    model = build_model()
    records = eliminate_redundant_heads(model, threshold=100.0)
    assert [record["heads_kept"] for record in records] == [[5]] * 18
    assert measure(model)["heads_kept"] == 18
    again = eliminate_redundant_heads(model, threshold=100.0)
    assert [record["replaced"] for record in again] == [{}] * 18
    assert again[0]["smallest_distance"] is None


def test_pruned_heads_take_no_part_in_later_comparisons(build_model):
    model = build_model()
    block = attention_blocks(model)[0]
    zero_heads_(block, torch.tensor([0, 1]))  # equal to each other, both zero
    record = eliminate_redundant_heads(model, threshold=0.01)[0]
    assert record["replaced"] == {} and record["heads_kept"] == [2, 3, 4, 5]


def test_a_module_without_living_heads_stays_as_it_is(build_model):
    model = build_model()
    zero_heads_(attention_blocks(model)[3], torch.arange(6))
    record = eliminate_redundant_heads(model, threshold=100.0)[3]
    assert (record["heads_kept"], record["replaced"]) == ([], {})
    assert record["smallest_distance"] is None


def test_out_proj_columns_of_all_replaced_heads_are_added_up(build_model):
    model = build_model()
    block = attention_blocks(model)[0]
    expected = block.head_columns().detach().sum(dim=1)
    eliminate_redundant_heads(model, threshold=100.0)
    assert torch.allclose(block.head_columns()[:, 5], expected, atol=1e-6)
    assert block.head_columns()[:, :5].abs().max() == 0


def test_merge_fc1_moves_the_columns_of_the_same_layers_fc1(build_model):
    model = build_model()
    block = attention_blocks(model)[0]
    columns = block.mlp.fc1.weight.detach().clone().view(96, 6, 8)
    out_proj = block.head_columns()[:, 4].detach().clone()
    copy_head_(block, source=4, target=1)
    eliminate_redundant_heads(model, threshold=1e-6, merge="fc1")
    after = block.mlp.fc1.weight.view(96, 6, 8)
    assert torch.allclose(after[:, 4], columns[:, 4] + columns[:, 1])
    assert after[:, 1].abs().max() == 0
    assert torch.equal(after[:, 0], columns[:, 0])
    assert torch.equal(block.head_columns()[:, 4], out_proj)


@pytest.mark.parametrize(
    ("threshold", "merge"), [(-0.1, "out_proj"), (float("nan"), "none"), (0.1, "sum")]
)
def test_wrong_arguments_are_refused_before_anything_is_edited(build_model, threshold, merge):
    model = build_model()
    with pytest.raises(ValueError, match="threshold|merge"):
        eliminate_redundant_heads(model, threshold, merge)


def test_fc1_merging_needs_an_fc1_that_fits(build_model):
    model = build_model()
    model.encoder.layers[0].fc1 = torch.nn.Linear(47, 96)
    with pytest.raises(ValueError, match="fc1.*encoder.layers.0.self_attn"):
        eliminate_redundant_heads(model, 0.1, merge="fc1")
    eliminate_redundant_heads(model, 0.1)  # which needs no fc1 at all


def test_a_pruned_head_stays_zero_through_50_adam_updates_with_weight_decay(build_model, sample):
    model = build_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.01)

    def step():
        optimizer.zero_grad()
        loss_of(model, sample).backward()
        optimizer.step()

    for _ in range(3):
        step()  # momentum to regrow a head with
    block = attention_blocks(model)[7]
    zero_heads_(block, torch.tensor([2, 3]))
    step()
    assert pruned_heads(block).tolist() == [], "momentum alone regrows a head"
    zero_heads_(block, torch.tensor([2, 3]))
    held = ZeroMask(model)
    for _ in range(50):
        step()
        held.hold_()
    assert pruned_heads(block).tolist() == [2, 3]
    step()
    held.hold_()
    assert pruned_heads(block).tolist() == [2, 3]


def test_zero_is_a_fixed_point_of_the_gradient(build_model, sample):
    model = build_model()
    block = attention_blocks(model)[0]
    zero_heads_(block, torch.tensor([3]))
    loss_of(model, sample).backward()
    rows = slice(24, 32)
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        assert projection.weight.grad[rows].abs().max() == 0
        assert projection.bias.grad[rows].abs().max() == 0
    assert block.out_proj.weight.grad[:, rows].abs().max() == 0


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_idle_neurons_are_pruned_and_the_output_stays(build_model, sample, activation):
    model = build_model(activation_fn=activation)
    randomise_biases_(model)
    mlp = mlp_blocks(model)[2]
    with torch.no_grad():
        mlp.fc1.weight[3] = 0.0
        mlp.fc1.bias[3] = 0.7  # always puts out the same
        mlp.fc2.weight[:, 5] = 0.0  # is read by nothing
        mlp.fc1.weight[8, 1:] = 0.0  # still reads one input
    before = output(model, sample)
    prune_idle_neurons_(model)
    assert pruned_neurons(mlp).tolist() == [3, 5]
    assert [len(pruned_neurons(other)) for other in mlp_blocks(model)].count(0) == 11
    assert torch.allclose(output(model, sample), before, atol=1e-6)


def test_pruned_neurons_have_no_gradient_and_stay_zero_through_20_adam_updates(build_model, sample):
    model = build_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.01)

    def step():
        optimizer.zero_grad()
        loss_of(model, sample).backward()
        optimizer.step()

    for _ in range(3):
        step()  # momentum to regrow them with
    mlp = mlp_blocks(model)[7]
    zero_neurons_(mlp, torch.arange(40))
    step()
    assert mlp.fc1.weight.grad[:40].abs().max() == mlp.fc2.weight.grad[:, :40].abs().max() == 0
    assert mlp.fc1.bias.grad[:40].abs().max() == 0
    assert len(pruned_neurons(mlp)) == 0, "momentum alone regrows them"
    zero_neurons_(mlp, torch.arange(40))
    held = ZeroMask(model)
    for _ in range(20):
        step()
        held.hold_()
    assert pruned_neurons(mlp).tolist() == list(range(40))


@pytest.mark.parametrize("left", ["fc1.weight", "fc1.bias", "fc2.weight"])
def test_a_neuron_of_which_anything_is_left_is_not_pruned(build_model, left):
    model = build_model()
    mlp = mlp_blocks(model)[0]
    zero_neurons_(mlp, torch.tensor([3, 4]))
    assert pruned_neurons(mlp).tolist() == [3, 4]
    parameter = model.encoder.layers[0].get_parameter(left)
    with torch.no_grad():
        (parameter[:, 3] if left == "fc2.weight" else parameter[3:4]).fill_(0.5)
    assert pruned_neurons(mlp).tolist() == [4]


def test_a_model_without_pruned_heads_holds_nothing(build_model):
    assert not ZeroMask(build_model())


def test_zero_small_weights_zeroes_exactly_those_below_the_tolerance(build_model):
    model = build_model()
    with torch.no_grad():
        mlp_blocks(model)[0].fc1.weight[0, :2] = torch.tensor([0.05, -0.05])
    before = mlp_blocks(model)[0].fc1.weight.detach().clone()
    embedding = model.encoder.embed_tokens.weight.detach().clone()
    zero_small_weights_(model, 0.05)
    after = mlp_blocks(model)[0].fc1.weight
    assert torch.equal(after, torch.where(before.abs() < 0.05, 0.0, before))
    assert torch.equal(model.encoder.embed_tokens.weight, embedding)
    assert measure(model)["total_sparsity"] > 0.1


def test_idle_neurons_stay_where_the_activation_is_not_known(build_model):
    model = build_model()
    del model.encoder.layers[0].activation_fn
    mlp = mlp_blocks(model)[0]
    zero_neurons_(mlp, torch.tensor([3]))
    later = mlp_blocks(model)[5]
    with torch.no_grad():
        mlp.fc1.bias[3] = 1.0  # idle, not pruned
        later.fc1.weight[7] = 0.0
    prune_idle_neurons_(model)
    assert mlp.fc1.bias[3] == 1.0
    assert pruned_neurons(later).tolist() == [7]


@pytest.mark.parametrize("every_weight", [False, True])
def test_a_zero_mask_holds_what_was_zero_and_nothing_else(build_model, every_weight):
    """Everything is set to 1 behind the mask's back: only what is held is 0 again."""
    model = build_model(encoder_layers=1, decoder_layers=1)
    attention, mlp = attention_blocks(model)[1], mlp_blocks(model)[0]
    zero_heads_(attention, torch.tensor([1, 4]))
    zero_neurons_(mlp, torch.tensor([7]))
    with torch.no_grad():
        attention.v_proj.weight[3, 5] = mlp.fc2.weight[2, 9] = 0.0  # scattered
        attention.out_proj.weight[0, 0] = 0.0  # no prunable weight
    expected = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    rows = [*range(8, 16), *range(32, 40)]
    for projection in ("q_proj", "k_proj", "v_proj"):
        expected[f"{attention.name}.{projection}.weight"][rows] = 0.0
        expected[f"{attention.name}.{projection}.bias"][rows] = 0.0
    expected[f"{attention.name}.out_proj.weight"][:, rows] = 0.0
    expected[f"{mlp.name}.fc1.weight"][7] = expected[f"{mlp.name}.fc1.bias"][7] = 0.0
    expected[f"{mlp.name}.fc2.weight"][:, 7] = 0.0
    if every_weight:
        expected[f"{attention.name}.v_proj.weight"][3, 5] = 0.0
        expected[f"{mlp.name}.fc2.weight"][2, 9] = 0.0
    mask = ZeroMask(model, every_weight)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    mask.hold_()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
