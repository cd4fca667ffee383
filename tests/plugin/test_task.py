"""When pruning happens, through fairseq's own training loop."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from fairseq.tasks.translation import TranslationTask

from neuroprune_fairseq.method.pruning import pruned_heads
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.structure import attention_blocks

STOCK = {"task": "translation", "criterion": "label_smoothed_cross_entropy"}
ALL_SIMILAR = ("--head-distance-threshold", 100)


def load(path):
    (model,), _ = checkpoint_utils.load_model_ensemble([str(path)])
    return model


def heads_kept(path):
    return measure(load(path))["heads_kept"]


def epoch_lines(folder):
    return [json.loads(line) for line in (folder / "neuroprune.jsonl").read_text().splitlines()]


def assert_equal_weights(ours, theirs):
    assert ours["model"].keys() == theirs["model"].keys()
    for name, value in theirs["model"].items():
        assert torch.equal(ours["model"][name], value), name


def test_without_penalties_and_threshold_three_epochs_equal_stock_fairseq(run_train):
    stock = run_train("--max-epoch", 3, name="stock", **STOCK)
    ours = run_train("--max-epoch", 3)
    assert_equal_weights(ours, stock)
    assert ours["optimizer_history"][-1]["num_updates"] > 6


def test_a_checkpoint_has_the_keys_and_shapes_of_the_stock_model(run_train):
    flags = ("--attn-penalty-weight", 0.1, "--mlp-penalty-weight", 0.1, *ALL_SIMILAR)
    ours = run_train("--max-epoch", 1, *flags)
    stock = run_train("--max-epoch", 1, name="stock", **STOCK)
    shapes = [{k: v.shape for k, v in run["model"].items()} for run in (ours, stock)]
    assert shapes[0] == shapes[1]


def test_the_penalties_change_what_is_learnt(run_train):
    plain = run_train("--max-epoch", 1, name="plain")
    pushed = run_train("--max-epoch", 1, "--attn-penalty-weight", 0.5)
    name = "encoder.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(plain["model"][name], pushed["model"][name])


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--disable-validation",
        "--validate-interval-updates 2",
        "--update-freq 2",
        "--update-freq 2 --skip-remainder-batch",
        "--update-freq 1,3",
        "--validate-interval 5",
    ],
)
def test_pruning_runs_once_at_the_end_of_every_epoch(run_train, tmp_path, flags):
    interval = ("--save-interval-updates", 2, *flags.split(), *ALL_SIMILAR)
    last = run_train("--max-epoch", 2, *interval)
    folder = tmp_path / "run"
    first, second = epoch_lines(folder)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert second["num_updates"] == last["optimizer_history"][-1]["num_updates"]
    assert heads_kept(folder / "checkpoint_1_2.pt") == 108, "not in the middle of an epoch"
    assert heads_kept(folder / "checkpoint1.pt") == 18, "before the epoch's checkpoint"
    assert first["heads_kept"] == 18
    assert [module["heads_kept"] for module in first["modules"]] == [[5]] * 18
    assert [module["replaced"] for module in second["modules"]] == [{}] * 18


def test_a_stop_in_the_middle_of_an_epoch_does_not_prune(run_train, tmp_path):
    run_train("--max-update", 3, *ALL_SIMILAR)
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 108
    assert not (tmp_path / "run" / "neuroprune.jsonl").exists()


def test_validation_and_its_meters_see_the_pruned_model(run_train, monkeypatch):
    seen = []
    valid_step = TranslationTask.valid_step

    def spy(self, sample, model, criterion):
        seen.append(measure(model)["heads_kept"])
        return valid_step(self, sample, model, criterion)

    monkeypatch.setattr(TranslationTask, "valid_step", spy)
    run_train("--max-epoch", 1, "--validate-interval-updates", 2, *ALL_SIMILAR)
    middle, end = seen[: len(seen) // 2], seen[-1]
    assert set(middle) == {108} and end == 18


def test_pruned_heads_stay_zero_through_later_epochs_with_momentum_and_decay(run_train, tmp_path):
    run_train("--max-epoch", 4, "--weight-decay", 0.1, *ALL_SIMILAR)
    model = load(tmp_path / "run" / "checkpoint_last.pt")
    assert all(pruned_heads(b).tolist() == [0, 1, 2, 3, 4] for b in attention_blocks(model))


def test_a_resumed_run_is_the_same_run(run_train, tmp_path):
    flags = ("--attn-penalty-weight", 0.05, "--head-distance-threshold", 0.335)
    whole = run_train("--max-epoch", 3, *flags, name="whole")
    run_train("--max-epoch", 3, *flags, "--max-update", 5)
    resumed = run_train("--max-epoch", 3, *flags)
    assert_equal_weights(resumed, whole)
    lines = epoch_lines(tmp_path / "run")
    assert lines == epoch_lines(tmp_path / "whole")
    assert 18 <= lines[0]["heads_kept"] < 108


def test_an_epoch_line_tells_heads_replacements_distances_and_sparsities(run_train, tmp_path):
    run_train("--max-epoch", 1, "--head-distance-threshold", 0.33)
    (line,) = epoch_lines(tmp_path / "run")
    names = {"r_attn", "r_mlp", "heads_kept", "attn_sparsity", "mlp_sparsity", "total_sparsity"}
    assert names | {"epoch", "num_updates", "modules"} == set(line)
    for module in line["modules"]:
        kept, replaced = module["heads_kept"], module["replaced"]
        assert sorted(kept + [int(head) for head in replaced]) == list(range(6))
        assert set(replaced.values()) <= set(kept)
        assert (module["smallest_distance"] <= 0.33) == bool(replaced)
    assert line["heads_kept"] == sum(len(module["heads_kept"]) for module in line["modules"])


def test_an_epoch_whose_last_batch_made_no_update_is_pruned_before_saving(build_model, tmp_path):
    name = "translation_neuroprune"
    config = TASK_DATACLASS_REGISTRY[name](
        **{"head_distance_threshold": 100.0, "save_dir": str(tmp_path), "log_interval": 100},
        **{"max_epoch": 1, "max_update": 0},
    )
    dictionary = SimpleNamespace(pad=lambda: 1, eos=lambda: 2)
    task = TASK_REGISTRY[name](config, dictionary, dictionary)
    model, ended = build_model(), []
    task.loop.iterator = SimpleNamespace(end_of_epoch=lambda: bool(ended), iterations_in_epoch=0)
    task.begin_epoch(1, model)
    task.optimizer_step(SimpleNamespace(step=lambda: None), model, 0)
    assert measure(model)["heads_kept"] == 108
    ended.append("the last batch overflowed: no optimizer_step")
    task.get_checkpoint_dict()
    assert measure(model)["heads_kept"] == 18
    assert len(epoch_lines(tmp_path)) == 1


def test_the_meters_reach_the_log(run_train, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="fairseq.logging.progress_bar")
    log = tmp_path / "log.json"
    run_train("--max-epoch", 1, "--log-format", "json", "--log-file", log, *ALL_SIMILAR)
    text = log.read_text()
    for name in ("r_attn", "r_mlp", "heads_kept", "attn_sparsity", "total_sparsity"):
        assert f'"train_{name}"' in text and f'"valid_{name}"' in text
    assert '"valid_heads_kept": "18"' in text
