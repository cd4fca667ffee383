"""The numbers behind Figures 2, 3 and 7, against numbers worked by hand and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neuroprune_experiments.report import measures
from tests.report_models import attention, facts, mlp


def test_the_spread_of_degrees_is_within_layers_each_by_its_rows():
    model = facts(mlps=[mlp([0, 2], 4), mlp([4, 4, 0, 0], 4, "decoder.layers.0")])
    # Variances 1 in two rows and 4 in four.
    assert measures.degree_spread(model, "fc1") == pytest.approx((18 / 6) ** 0.5)
    assert measures.part_sparsity(model, "fc1") == pytest.approx(1 - 10 / 24)


def test_scattered_zeros_have_the_mean_variance_of_all_arrangements():
    rows, columns, nonzeros = 3, 2, 3
    variances = []
    for places in itertools.combinations(range(rows * columns), nonzeros):
        matrix = np.zeros(rows * columns)
        matrix[list(places)] = 1
        variances.append(matrix.reshape(rows, columns).sum(axis=1).var())
    found = measures.scattered_variance(rows, columns, nonzeros)
    assert found == pytest.approx(np.mean(variances))


def test_a_full_and_an_empty_matrix_have_no_spread():
    assert measures.scattered_variance(8, 4, 32) == measures.scattered_variance(8, 4, 0) == 0
    assert measures.scattered_variance(1, 1, 1) == 0


def test_scattering_keeps_the_zeros_of_every_layer():
    # Full and empty layers leave nothing to scatter.
    model = facts(mlps=[mlp([4, 4], 4), mlp([0, 0], 4, "decoder.layers.0")])
    assert measures.scattered_spread(model, "fc1") == measures.degree_spread(model, "fc1") == 0
    # One layer of 2 rows x 2 with 2 left: variance 1 in 2 of 6 arrangements, else 0.
    one = facts(mlps=[mlp([2, 0], 2)])
    assert measures.scattered_spread(one, "fc1") == pytest.approx((1 / 3) ** 0.5)
    assert measures.degree_spread(one, "fc1") == 1
    two = facts(mlps=[mlp([2, 0], 2), mlp([0, 0], 2, "decoder.layers.0")])
    assert measures.scattered_spread(two, "fc1") == pytest.approx((1 / 6) ** 0.5)


def test_a_position_counts_in_the_modules_that_have_it():
    model = facts([attention("011"), attention("001"), attention("10", "decoder.layers.0.x")])
    assert measures.removal_by_position(model).tolist() == pytest.approx([2 / 3, 2 / 3, 0])


def test_removals_of_a_module_are_averaged_over_models():
    models = [facts([attention(mask)]) for mask in ("011", "001", "111", "001")]
    found = measures.module_removal(models)["encoder.layers.0.self_attn"]
    assert found.tolist() == [3 / 4, 1 / 2, 0]


def test_means_over_models_of_different_size_use_what_is_there():
    mean, deviation = measures.mean_over([np.array([0.0, 1.0]), np.array([1.0])])
    assert mean.tolist() == [0.5, 1.0]
    assert deviation.tolist() == [0.5, 0.0]


def test_only_models_that_lost_ten_heads_count():
    ten, nine = facts([attention("0" * 10 + "1")]), facts([attention("0" * 9 + "1")])
    assert measures.with_removals([nine, ten]) == [ten]


def test_heads_removed_are_averaged_by_kind_and_layer():
    def model(first, second):
        cross = attention(second, "decoder.layers.1.encoder_attn", kind="decoder_cross")
        return facts([attention(first), cross])

    found = measures.removed_by_kind([model("001", "111"), model("000", "110")])
    assert found == {"encoder_self": {0: 2.5}, "decoder_cross": {1: 0.5}}


def test_relative_importance_is_the_ratio_of_means_averaged_over_modules():
    names = ("encoder.layers.0.self_attn", "encoder.layers.1.self_attn")
    before = [attention("111", names[0], [1, 3, 6]), attention("111", names[1], [2, 2, 8])]
    model = facts([attention("001", names[0]), attention("110", names[1])])
    # (1 + 3) / 2 over 6, and 8 over (2 + 2) / 2.
    assert measures.relative_importance(model, before) == pytest.approx((2 / 6 + 8 / 2) / 2)


def test_modules_that_lost_all_or_nothing_have_no_ratio():
    before = [attention("11", scores=[1, 2])]
    for mask in ("11", "00"):
        assert measures.relative_importance(facts([attention(mask)]), before) is None
        assert measures.removed_above_kept(facts([attention(mask)]), before) is None


def test_pairs_are_those_of_a_plain_loop():
    rng = np.random.default_rng(5)
    names = [f"encoder.layers.{i}.self_attn" for i in range(3)]
    scores = rng.integers(0, 4, (3, 6)).astype(float)
    masks = ["".join(map(str, row)) for row in rng.integers(0, 2, (3, 6))]
    wins = pairs = 0
    for row, mask in zip(scores, masks):
        for i, j in itertools.product(range(6), repeat=2):
            if mask[i] == "0" and mask[j] == "1":
                pairs += 1
                wins += 1 if row[i] > row[j] else 0.5 if row[i] == row[j] else 0
    model = facts([attention(mask, name) for mask, name in zip(masks, names)])
    before = [attention("1" * 6, name, row) for name, row in zip(names, scores)]
    assert measures.removed_above_kept(model, before) == pytest.approx(wins / pairs)


def test_models_are_picked_over_the_whole_range_of_sparsities_in_their_order():
    models = [facts(label=str(total), total=total) for total in (0.9, 0.1, 0.5, 0.4, 0.6)]
    assert [m.label for m in measures.spread_out(models, 3)] == ["0.9", "0.1", "0.5"]
    assert measures.spread_out(models, 9) == models
    assert len(measures.spread_out(models, 1)) == 1
