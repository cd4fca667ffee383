"""Which heads go to reach a number of them: the closest pairs, the least important, or both."""

from __future__ import annotations

import torch

from neuroprune_fairseq.method.head_selection import (
    by_importance,
    by_redundancy,
    even_layouts,
    keep_heads_,
)
from neuroprune_fairseq.method.importance import HeadImportance
from neuroprune_fairseq.method.pruning import eliminate_redundant_heads, zero_heads_
from neuroprune_fairseq.method.redundancy import head_distances
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.structure import attention_blocks


def importance_of(*low):
    values = torch.ones(108)
    values[list(low)] = 0.1
    return HeadImportance(values=values)


def test_the_least_important_heads_go_first_and_a_module_may_go_empty(build_model):
    model = build_model()
    records = keep_heads_(model, 101, "importance", importance_of(0, 1, 2, 3, 4, 5, 60), "none")
    assert records[0]["heads_kept"] == []
    assert records[10]["replaced"] == {0: None}
    assert measure(model)["heads_kept"] == 101


def test_redundancy_takes_the_closest_pairs_and_exactly_as_many_as_asked(build_model):
    model = build_model()
    closest = sorted(
        (head_distances(block)[i, j].item(), index)
        for index, block in enumerate(attention_blocks(model))
        for i in range(6)
        for j in range(i)
    )
    (removal,) = by_redundancy(model, 1)
    assert removal[0] == closest[0][1]
    records = keep_heads_(model, 71, "redundancy", importance_of(), "out_proj")
    assert measure(model)["heads_kept"] == 71
    assert sum(len(record["replaced"]) for record in records) == 37


def test_of_the_pairs_at_one_threshold_the_closest_go_first(build_model):
    model = build_model()
    far = torch.full((6, 6), 100.0).fill_diagonal_(0.0)
    distances = {block.name: far.clone() for block in attention_blocks(model)}
    first = distances["encoder.layers.0.self_attn"]
    first[0, 1] = first[1, 0] = 3.0
    # Four heads: two pairs at 1, a ring at 2 where none dominates, at 3 all alike: the last stays.
    four = distances["decoder.layers.5.encoder_attn"]
    for i, j, distance in ((0, 1, 1), (2, 3, 1), (1, 2, 2), (0, 3, 2), (0, 2, 3), (1, 3, 3)):
        four[i, j] = four[j, i] = distance
    expected = [(17, 2, 3), (17, 0, 3), (0, 0, 1), (17, 1, 3)]
    for surplus in (3, 4):
        removals = by_redundancy(model, surplus, lambda block: distances[block.name])
        assert removals == expected[:surplus]


def test_more_than_redundancy_can_remove_leaves_one_head_in_every_module(build_model):
    removals = by_redundancy(build_model(), 108)
    assert sorted({module for module, _, _ in removals}) == list(range(18))
    assert [(head, by) for _, head, by in sorted(removals)] == [(i, 5) for i in range(5)] * 18


def test_one_head_a_module_is_what_algorithm_2_leaves_at_the_smallest_threshold(build_model):
    model = build_model()
    blocks = attention_blocks(model)
    distances = sorted({d for b in blocks for d in head_distances(b).flatten().tolist()})
    for threshold in reversed(distances):
        records = eliminate_redundant_heads(build_model(), threshold)
        if sum(len(record["heads_kept"]) for record in records) > 18:
            break
        expected = [record["heads_kept"] for record in records]
    ours = keep_heads_(model, 18, "redundancy", importance_of(), "out_proj")
    assert [record["heads_kept"] for record in ours] == expected


def test_of_two_equally_important_heads_the_one_that_another_resembles_goes(build_model):
    model = build_model()
    block = attention_blocks(model)[3]
    with torch.no_grad():
        for weight in block.prunable_weights:
            weight[8:16] = weight[:8] + 1e-3
    records = keep_heads_(model, 107, "both", importance_of(), "none")
    assert set(records[3]["replaced"]) <= {0, 1} and len(records[3]["replaced"]) == 1


@torch.no_grad()
def test_importance_is_scaled_by_the_distance_to_the_nearest_living_head_up_to_the_median(
    build_model,
):
    model = build_model(encoder_layers=1, decoder_layers=1)
    alone, six, none = attention_blocks(model)
    zero_heads_(alone, torch.arange(1, 6))
    zero_heads_(none, torch.arange(6))
    for weight in six.prunable_weights:
        weight.fill_(0.5)
    six.q_proj.weight[8, 1] = 0.6  # head 1 is 0.1 from head 0, the others at least 0.4 from all
    six.q_proj.weight[16, 0] = 0.9
    six.k_proj.weight[24, 0] = 0.1
    six.v_proj.weight[32, 0] = 0.9
    six.v_proj.weight[40, 1] = 1.3  # head 5 is 0.8 from all, no more than the median counts
    values = torch.full((18,), 9.0)
    values[[0, *range(6, 12)]] = torch.tensor([1.1, 3.0, 5.0, 1.0, 1.5, 2.0, 1.2])

    def gone(redundancy):
        removals = by_importance(model, 6, HeadImportance(values=values), redundancy)
        assert all(replaced_by is None for *_, replaced_by in removals)
        return [removal[:2] for removal in removals]

    assert gone(redundancy=False) == [(1, 2), (0, 0), (1, 5), (1, 3), (1, 4), (1, 0)]
    assert gone(redundancy=True) == [(1, 0), (1, 2), (0, 0), (1, 5), (1, 1), (1, 3)]


def test_heads_that_are_each_alone_go_by_importance(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    for block in attention_blocks(model):
        zero_heads_(block, torch.arange(5))
    values = torch.zeros(18)
    values[[5, 11, 17]] = torch.tensor([3.0, 1.0, 2.0])
    found = by_importance(model, 2, HeadImportance(values=values), redundancy=True)
    assert found == [(1, 5, None), (2, 5, None)]


def test_even_layouts_are_all_ways_to_have_as_many_in_every_module_of_a_stack(build_model):
    # 6 modules in the encoder, 12 in the decoder: 6 e + 12 d = 48
    layouts = even_layouts(build_model(), 48)
    found = {tuple(layout.values()) for layout in layouts}
    assert found == {(2, 3), (4, 2), (6, 1)} and set(layouts[0]) == {
        "encoder.layers",
        "decoder.layers",
    }
    assert even_layouts(build_model(), 47) == even_layouts(build_model(), 12) == []


def test_heads_go_towards_the_even_layout_that_loses_least(build_model):
    model = build_model()
    # In the encoder two heads of each module matter, in the decoder three.
    values = torch.full((18, 6), 0.1)
    values[:6, [1, 4]] = 1.0
    values[6:, [0, 2, 5]] = 1.0
    values[3, 0] = 0.05
    importance = HeadImportance(values=values.flatten())
    keep_heads_(model, 107, "importance", importance, "none", evenly_at=48)
    assert measure(model)["heads_kept_per_module"]["encoder.layers.3.self_attn"] == 5
    records = keep_heads_(model, 48, "importance", importance, "none", evenly_at=48)
    assert [record["heads_kept"] for record in records] == [[1, 4]] * 6 + [[0, 2, 5]] * 12
