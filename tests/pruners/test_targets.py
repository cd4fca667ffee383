"""The schedule, exact counts, and what is refused at the start."""

from __future__ import annotations

import pytest
import torch
from test_task import assert_equal_weights, epoch_lines

from neuroprune_fairseq.compact import compact
from neuroprune_fairseq.method.importance import WeightImportance
from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.method.weight_selection import sparsify_
from neuroprune_fairseq.plugin.loop import epoch_ends
from neuroprune_fairseq.pruners import Run
from neuroprune_fairseq.pruners.schedule import Schedule
from neuroprune_fairseq.pruners.targets import TargetFlags, Targets
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


def test_the_schedule_is_cubic_between_start_and_end():
    schedule = Schedule(start=100, end=200)
    assert schedule.progress(100) == 0.0 and schedule.progress(50) == 0.0
    assert schedule.progress(150) == pytest.approx(0.875)
    assert schedule.progress(200) == schedule.progress(500) == 1.0


def test_a_part_of_a_schedule_goes_the_whole_way_within_its_updates():
    first = Schedule(start=100, end=200).part(0, 0.4)
    assert (first.start, first.end) == (100, 140)
    assert first.progress(120) == pytest.approx(0.875)
    assert first.progress(140) == first.progress(150) == 1.0
    second = Schedule(start=100, end=200).part(0.4, 1)
    assert (second.start, second.end) == (140, 200)
    assert second.progress(140) == 0.0 and second.progress(170) == pytest.approx(0.875)


def test_heads_alone_take_the_whole_way_to_the_target(run_train, tmp_path):
    run_train("--max-epoch", 2, "--target-heads", 40, "--target-interval", 2)
    first, last = epoch_lines(tmp_path / "run")
    assert last["heads_kept"] == 40 < first["heads_kept"] < 108


def test_the_schedule_acts_at_its_interval_and_always_at_the_end():
    schedule = Schedule(start=100, end=123, interval=10)
    assert [n for n in range(300) if schedule.acts(n)] == [110, 120, 123]


def test_by_default_the_schedule_acts_every_tenth_update_after_its_start():
    schedule = Schedule(start=20, end=45)
    assert [n for n in range(100) if schedule.acts(n)] == [30, 40, 45]
    assert schedule.part(0, 0.1) == Schedule(start=20, end=22)
    assert schedule.part(0, 0.5).interval == schedule.interval == 10


def test_a_schedule_of_no_length_is_at_its_end():
    schedule = Schedule(start=5, end=5)
    assert [schedule.progress(n) for n in (4, 5, 6)] == [0.0, 1.0, 1.0]
    assert [n for n in range(20) if schedule.acts(n)] == [5]
    assert Schedule(start=0, end=1).progress(0) == 0.0


@pytest.mark.parametrize("part", ["attn", "mlp", "total"])
@pytest.mark.parametrize("share", [0.0, 0.31, 0.9])
def test_sparsify_ends_at_the_share_and_takes_zeros_first(build_model, part, share):
    model = build_model()
    scores = WeightImportance().scores
    sparsify_(model, part, share / 2, scores(model))
    before = [b.q_proj.weight == 0 for b in attention_blocks(model)]
    sparsify_(model, part, share, scores(model))
    assert measure(model)[f"{part}_sparsity"] == pytest.approx(share, abs=1e-4)
    after = [b.q_proj.weight == 0 for b in attention_blocks(model)]
    assert all((new | ~old).all() for old, new in zip(before, after))


@pytest.mark.parametrize("part", ["attn", "mlp", "total"])
def test_a_model_cut_further_than_asked_loses_no_weight(build_model, part):
    model = build_model()
    for block in attention_blocks(model):
        zero_heads_(block, torch.arange(3))
    for mlp in mlp_blocks(model):
        zero_neurons_(mlp, torch.arange(48))
    smaller = compact(model)
    sparsify_(smaller, part, 0.3, WeightImportance().scores(smaller))
    assert measure(smaller)[f"{part}_sparsity"] == pytest.approx(0.5)


@pytest.mark.parametrize("part", ["attn", "mlp", "total"])
def test_a_cut_model_loses_the_weights_that_the_whole_one_loses(build_model, part):
    model = build_model()
    for block in attention_blocks(model):
        zero_heads_(block, torch.arange(2))
    for mlp in mlp_blocks(model):
        zero_neurons_(mlp, torch.arange(20))
    smaller = compact(model)
    for one in (model, smaller):
        sparsify_(one, part, 0.6, WeightImportance().scores(one))
        assert measure(one)[f"{part}_sparsity"] == pytest.approx(0.6, abs=1e-4)
    for whole, small in zip(attention_blocks(model), attention_blocks(smaller)):
        assert torch.equal(small.k_proj.weight, whole.k_proj.weight[16:])
    for whole, small in zip(mlp_blocks(model), mlp_blocks(smaller)):
        assert torch.equal(small.fc2.weight, whole.fc2.weight[:, 20:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_heads": 0}, "--target-heads 0 .*at least 1"),
        ({"target_heads": 109}, "--target-heads 109 .*1 to 108"),
        (
            {"target_heads": 17, "head_criterion": "redundancy"},
            "--target-heads 17 .*18.*--head-criterion",
        ),
        ({"target_sparsity": 1.0}, "--target-sparsity 1.0 .*share"),
        ({"target_mlp_sparsity": -0.1}, "--target-mlp-sparsity -0.1 .*share"),
        ({"target_sparsity": 0.5, "target_mlp_sparsity": 0.5}, "--target-sparsity excludes"),
        (
            {"target_heads": 12, "target_attn_sparsity": 0.5},
            "--target-heads 12 .*--target-attn-sparsity 0.5",
        ),
    ],
)
def test_a_target_that_cannot_be_met_is_refused_in_one_line(build_model, settings, message):
    with pytest.raises(SystemExit, match=message) as exit_:
        Targets(TargetFlags(**settings)).start(Run(build_model(), epoch_ends=[100]))
    assert "\n" not in str(exit_.value)


def test_heads_may_take_half_a_percent_more_than_the_attention_target_and_no_more(run_train):
    flags = ("--max-update", 2, "--target-update", 1, "--target-heads", 54)  # 0.5 without them
    run_train(*flags, "--target-attn-sparsity", 0.496)
    with pytest.raises(
        SystemExit, match="--target-heads 54 .* 0.500 .*--target-attn-sparsity 0.49"
    ):
        run_train(*flags, "--target-attn-sparsity", 0.494, name="other")


def test_the_ends_of_epochs_follow_update_freq_and_max_update():
    assert epoch_ends(10, [1], max_epoch=3, max_update=0) == [10, 20, 30]
    assert epoch_ends(10, [4], max_epoch=3, max_update=0) == [3, 6, 9]
    assert epoch_ends(10, [1, 4], max_epoch=3, max_update=0) == [10, 13, 16]
    assert epoch_ends(10, [1], max_epoch=3, max_update=12) == [10, 12]
    assert epoch_ends(10, [1], max_epoch=3, max_update=99) == [10, 20, 30]
    assert epoch_ends(10, [1], max_epoch=0, max_update=12) == [10, 12]
    assert epoch_ends(10, [1], max_epoch=0, max_update=0) == []


@pytest.mark.parametrize("criterion", ["both", "importance", "redundancy"])
def test_a_run_ends_with_exactly_its_targets(run_train, tmp_path, criterion):
    flags = ("--target-interval", 2, "--target-heads", 40, "--target-attn-sparsity", 0.8)
    run_train("--max-epoch", 2, *flags, "--target-mlp-sparsity", 0.6, "--head-criterion", criterion)
    first, last = epoch_lines(tmp_path / "run")
    assert first["heads_kept"] == 40  # heads go first
    assert 0.4 < first["mlp_sparsity"] < 0.59
    assert last["heads_kept"] == 40 == sum(len(m["heads_kept"]) for m in last["modules"])
    assert last["attn_sparsity"] == pytest.approx(0.8, abs=5e-3)
    assert last["mlp_sparsity"] == pytest.approx(0.6, abs=5e-3)


def test_a_resumed_run_with_targets_is_the_same_run(run_train, tmp_path):
    flags = ("--max-epoch", 2, "--target-heads", 40, "--target-sparsity", 0.7)
    flags += ("--target-interval", 2, "--save-interval-updates", 5)
    whole = run_train(*flags, name="whole")
    run_train(*flags, name="run")
    folder = tmp_path / "run"
    (folder / "checkpoint_1_5.pt").replace(folder / "checkpoint_last.pt")
    resumed = run_train(*flags)
    assert_equal_weights(resumed, whole)
    assert epoch_lines(folder) == epoch_lines(tmp_path / "whole")


@pytest.mark.parametrize("penalty", ["neuroprune", "l1"])
def test_a_run_resumed_after_its_targets_goes_on_without_penalty(run_train, tmp_path, penalty):
    weights = {
        "neuroprune": ("--attn-penalty-weight", 0.5, "--mlp-penalty-weight", 0.5),
        "l1": ("--l1-penalty-weight", 0.05),
    }
    flags = ("--max-epoch", 1, "--target-heads", 60, "--target-interval", 2)
    flags += ("--save-interval-updates", 4, *weights[penalty])
    whole = run_train(*flags, name="whole")
    run_train(*flags)
    folder = tmp_path / "run"
    (folder / "checkpoint_1_8.pt").replace(folder / "checkpoint_last.pt")
    assert_equal_weights(run_train(*flags), whole)


def test_targets_work_with_fairseqs_own_criterion(run_train, tmp_path):
    stock = "label_smoothed_cross_entropy"
    run_train("--max-epoch", 1, "--target-heads", 40, "--target-interval", 2, criterion=stock)
    assert epoch_lines(tmp_path / "run")[-1]["heads_kept"] == 40
