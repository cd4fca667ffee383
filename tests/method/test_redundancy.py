"""Distances against loops, Algorithm 3 against its literal reading."""

from __future__ import annotations

import random

import pytest
import torch

from neuroprune_fairseq.method.redundancy import find_dominators, head_distances, head_importance
from neuroprune_fairseq.structure import attention_blocks


def literal_algorithm_3(similar):
    """The paper's pseudo-code, line by line, with lists."""
    k = len(similar)
    dominators = []
    for i in range(k):
        best = i
        for j in range(k):
            s = [similar[best][m] - similar[j][m] for m in range(k)]
            if (1 not in s and -1 in s) or (all(x == 0 for x in s) and best < j):
                best = j
        dominators.append(best)
    return dominators


def random_similarity(rng, k):
    density = rng.random()
    similar = [[int(i == j) for j in range(k)] for i in range(k)]
    for i in range(k):
        for j in range(i):
            similar[i][j] = similar[j][i] = int(rng.random() < density)
    return similar


def test_find_dominators_equals_the_literal_algorithm_on_thousands_of_graphs():
    rng = random.Random(7)
    for _ in range(5000):
        similar = random_similarity(rng, rng.randrange(1, 11))
        assert find_dominators(torch.tensor(similar)).tolist() == literal_algorithm_3(similar)


def test_a_dominator_is_never_replaced_and_is_similar_to_what_it_replaces():
    rng = random.Random(8)
    for _ in range(2000):
        similar = random_similarity(rng, 8)
        dominators = find_dominators(torch.tensor(similar)).tolist()
        for head, dominator in enumerate(dominators):
            assert dominators[dominator] == dominator
            assert similar[head][dominator] == 1


def test_no_heads_have_no_dominators():
    found = find_dominators(torch.zeros(0, 0, dtype=torch.bool))
    assert found.tolist() == [] and found.dtype == torch.long


def test_of_equal_heads_the_last_stays():
    assert find_dominators(torch.ones(4, 4)).tolist() == [3, 3, 3, 3]


def test_a_head_similar_to_more_dominates_whatever_its_place():
    # 0 is similar to 1 and 2, which are not similar to each other.
    similar = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1]]).bool()
    assert find_dominators(similar).tolist() == [0, 0, 0]


def test_overlap_without_inclusion_dominates_nothing():
    # A path 0 - 1 - 2 - 3: 0 is in 1's set, 3 in 2's; 1 and 2 keep each other alive.
    similar = torch.eye(4)
    for i in range(3):
        similar[i, i + 1] = similar[i + 1, i] = 1
    assert find_dominators(similar).tolist() == [1, 1, 2, 2]


def test_head_distances_are_the_largest_difference_over_q_k_and_v(build_model):
    block = attention_blocks(build_model())[7]
    found = head_distances(block)
    for a in range(6):
        for b in range(6):
            expected = max(
                (w[8 * a : 8 * a + 8] - w[8 * b : 8 * b + 8]).abs().max().item()
                for w in block.prunable_weights
            )
            assert found[a, b].item() == expected
    assert torch.equal(found, found.T)


def test_one_changed_weight_is_the_distance_of_otherwise_equal_heads(build_model):
    block = attention_blocks(build_model())[0]
    with torch.no_grad():
        for weight in block.prunable_weights:
            weight[8:16] = weight[:8]
        block.v_proj.weight[9, 3] += 0.25
    assert abs(head_distances(block)[0, 1].item() - 0.25) < 1e-6


def test_head_importance_sums_the_absolute_out_proj_columns(build_model):
    block = attention_blocks(build_model())[0]
    for head in range(6):
        expected = block.out_proj.weight[:, 8 * head : 8 * head + 8].abs().sum()
        assert torch.allclose(head_importance(block)[head], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_head_importance_in_half_precision_is_summed_in_fp32(build_model, dtype):
    model = build_model().to(dtype)
    block = attention_blocks(model)[0]
    with torch.no_grad():
        block.out_proj.weight.fill_(-300.0)  # 48 x 8 of them are more than fp16 can hold
        block.head_columns()[:, 1] = 1.0009765625 if dtype == torch.float16 else 1.0078125
    found = head_importance(block)
    assert found.dtype == torch.float32
    assert found[0].item() == 48 * 8 * 300
    assert found[1].item() == 48 * 8 * block.out_proj.weight[0, 8].item()
