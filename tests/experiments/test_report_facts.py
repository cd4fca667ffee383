"""What the report takes from a model, and where it finds names and methods."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroprune_experiments.frontier.methods import method_of
from neuroprune_experiments.report.command import labels_for, main
from neuroprune_experiments.report.facts import (
    LEVELS,
    make_pattern,
    read_model,
    shares,
    take_facts,
)
from neuroprune_fairseq.compact.cutting import compact, make_plan
from neuroprune_fairseq.compact.state import compact_state
from neuroprune_fairseq.method.pruning import zero_layers_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks
from tests.report_models import make_model, prune_, state_of, write_checkpoint


def test_a_cell_is_the_share_of_nonzero_entries_it_covers():
    nonzero = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=bool)
    expected = [[3 / 4, 0, 1 / 2], [0, 1, 1]]  # 2 x 2 entries; less at the lower and right edge
    assert shares(nonzero, (2, 3)).tolist() == expected


def test_a_matrix_that_is_small_enough_keeps_every_entry():
    nonzero = np.array([[1, 0], [0, 1]], dtype=bool)
    assert shares(nonzero, (64, 2)).tolist() == [[1, 0], [0, 1]]


def test_a_cell_is_blank_only_where_every_entry_is_zero_and_full_only_where_none_is():
    weight = torch.zeros(1024, 512)
    weight[0, 0] = 1.0
    weight[16:32, 8:16] = 1.0
    pattern = make_pattern(weight, (1024, 512))
    assert pattern.shape == (1024, 512) and pattern.cells.shape == (64, 64)
    assert pattern.cells[0, 0] == 1 and pattern.cells[1, 1] == LEVELS
    assert pattern.cells.sum() == 1 + LEVELS


def test_degrees_are_the_nonzero_entries_of_each_row():
    model, settings = make_model()
    prune_(model)
    for block, found in zip(mlp_blocks(model), take_facts(model, settings, "m").mlps):
        for part, weight in zip(("fc1", "fc2"), block.prunable_weights):
            rows = [sum(1 for entry in row if entry != 0) for row in weight.tolist()]
            assert found.degrees[part].tolist() == rows
    assert found.degrees["fc1"].tolist() == [0] * 32 + [48] * 64


def test_rows_of_attention_patterns_are_input_dimensions():
    model, settings = make_model()
    block = attention_blocks(model)[0]
    block.q_proj.weight.data[:, 5] = 0.0
    q, k, _ = take_facts(model, settings, "m").attention[0].patterns
    assert not q.cells[5].any() and q.cells[4].all() and k.cells[5].all()


def test_heads_that_are_gone_are_known_by_their_place():
    model, settings = make_model()
    prune_(model, heads=(0, 4))
    found = take_facts(model, settings, "m")
    assert found.heads_total == 36 and found.heads_kept == 5 * 4
    assert found.attention[0].head_mask.tolist() == [False, True, True, True, False, True]
    assert found.attention[0].importance[0] == 0 and found.attention[0].importance[1] > 0
    assert not found.attention[-1].head_mask.any()


def test_a_compact_checkpoint_shows_what_the_model_it_was_cut_from_shows(tmp_path):
    model, settings = make_model("dsp")
    prune_(model, (0, 1))
    before = take_facts(model, settings, "before")
    path = write_checkpoint(tmp_path / "small.pt", "dsp", pruned=(0, 1), is_compact=True)
    found, run = read_model(path, "small", 0.0)
    assert run is None and found.is_compact and found.method == "dsp"
    assert (found.heads_kept, found.heads_total) == (20, 36)
    assert found.sparsity == before.sparsity
    for small, whole in zip(found.attention, before.attention):
        assert small.head_mask.tolist() == whole.head_mask.tolist()
    assert found.attention[0].head_mask.tolist() == [False, False, True, True, True, True]
    for small, whole in zip(found.mlps, before.mlps):
        for part in ("fc1", "fc2"):
            assert sorted(small.degrees[part]) == sorted(whole.degrees[part])


def test_layers_that_are_gone_show_as_heads_and_weights_that_are_gone(tmp_path):
    model, settings = make_model(encoder_normalize_before=True, decoder_normalize_before=True)
    zero_layers_(model, ["encoder.layers.1", "decoder.layers.0"])
    before, plan = take_facts(model, settings, "before"), make_plan(model)
    state = compact_state(state_of(model, settings), model, compact(model, plan), plan, False)
    torch.save(state, tmp_path / "small.pt")
    main([str(tmp_path / "small.pt"), "--out", str(tmp_path / "page")])
    assert (tmp_path / "page" / "index.html").is_file()
    found, _ = read_model(tmp_path / "small.pt", "small", 0.0)
    assert (found.heads_kept, found.heads_total) == (18, 36)
    assert found.sparsity == before.sparsity and found.parameters < before.parameters
    for small, whole in zip(found.attention, before.attention, strict=True):
        assert (small.name, small.head_mask.tolist()) == (whole.name, whole.head_mask.tolist())
    for small, whole in zip(found.mlps, before.mlps, strict=True):
        assert small.name == whole.name
        for part in ("fc1", "fc2"):
            assert small.degrees[part].tolist() == whole.degrees[part].tolist()
            assert small.patterns[part].full_shape == whole.patterns[part].full_shape


def test_patterns_of_a_compact_checkpoint_are_as_small_as_its_matrices(tmp_path):
    path = write_checkpoint(tmp_path / "small.pt", "dsp", pruned=(0, 1), is_compact=True)
    found = read_model(path, "small", 0.0)[0]
    assert found.attention[-1].patterns == ()
    assert found.attention[0].patterns[0].shape == (48, 32)
    assert found.attention[0].patterns[0].full_shape == (48, 48)
    assert found.mlps[0].patterns["fc2"].shape == (48, 64)
    assert found.mlps[0].patterns["fc2"].full_shape == (48, 96)


@pytest.mark.parametrize("heads", ["gone", [7, 8, 9, 10]])
def test_wrong_numbers_of_heads_get_one_line(tmp_path, heads):
    path = write_checkpoint(tmp_path / "bad.pt", "dsp", pruned=(0, 1), is_compact=True)
    state = torch.load(path, weights_only=True)
    config = state["cfg"]["model"].per_layer_config
    config["encoder.layers.0"]["self_attn"]["heads"] = heads
    torch.save(state, path)
    with pytest.raises(SystemExit, match="per_layer_config"):
        read_model(path, "bad", 0.0)


def test_small_weights_count_as_zero(tmp_path):
    path = write_checkpoint(tmp_path / "dense.pt")
    assert read_model(path, "m", 0.0)[0].sparsity["total_sparsity"] == 0
    assert read_model(path, "m", 1e9)[0].sparsity["total_sparsity"] == 1


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        ({"task": "translation"}, "dense"),
        ({"task": "translation_neuroprune", "attn_penalty_weight": 0.0}, "dense"),
        ({"task": "translation_neuroprune", "attn_penalty_weight": 1e-3}, "neuroprune"),
        ({"task": "translation_neuroprune", "head_distance_threshold": 0.0}, "neuroprune"),
        (
            {
                "task": "translation_neuroprune",
                **{"attn_penalty_weight": 1.0, "penalty_solver": "proximal"},
            },
            "neuroprune-proximal",
        ),
        ({"task": "translation_neuroprune", "target_sparsity": 0.7}, "neuroprune-target"),
        ({"pruner": "dsp", "dsp_mode": "joint"}, "dsp"),
        ({"pruner": "dsp", "dsp_mode": "pipelined"}, "dsp-pipelined"),
        ({"pruner": "voita"}, "voita"),
        ({"pruner": "michel"}, "michel"),
        (
            {"pruner": "neuroprune", "l1_penalty_weight": 1e-4},
            "l1",
        ),
        ({"task": "translation_neuroprune", "pruner": "dsp", "target_heads": 36}, "dsp"),
        ({"task": "translation_neuroprune", "pruner": "michel", "target_heads": 36}, "michel"),
        ({"task": "translation_neuroprune", "pruner": "none"}, "dense"),
        (
            {
                "criterion": "label_smoothed_cross_entropy_neuroprune",
                **{"l1_penalty_weight": 1e-4, "attn_penalty_weight": 0.0},
            },
            "l1",
        ),
        ({}, "dense"),
    ],
)
def test_the_method_is_read_from_a_checkpoints_flags(flags, method):
    assert method_of(Namespace(**flags)) == method


def test_labels_are_as_short_as_they_can_be_and_still_different():
    def labels(*paths, chosen=()):
        return labels_for([Path("/runs") / path for path in paths], chosen)

    assert labels("a/checkpoint_last.pt", "b/checkpoint_last.pt", "small.pt") == ["a", "b", "small"]
    assert labels("a/checkpoint_last.pt", "a/checkpoint_best.pt") == [
        "a/checkpoint_last",
        "a/checkpoint_best",
    ]
    both = ("x/a/checkpoint_last.pt", "y/a/checkpoint_last.pt")
    assert labels(*both) == [f"/runs/{path}" for path in both]
    assert labels(*both, chosen=["one", "two"]) == ["one", "two"]
