"""A run that is killed and started again with the same command is the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from test_precision import BF16, FLAT, SHAPED, build_optimizer, full_weights
from test_task import assert_equal_weights, epoch_lines, heads_kept

from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.plugin import resume
from neuroprune_fairseq.plugin.precision import (
    half_precision_state,
    master_weights,
    restore_half_precision_,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--encoder-layers", 2, "--decoder-layers", 2)


# The batches.


def iterator_of(task_class, config, corpus, epoch):
    config.data, config.source_lang, config.target_lang = str(corpus), "de", "en"
    config.train_subset, config.dataset_impl = "train", None
    task = task_class.setup_task(config)
    task.load_dataset("train", epoch=epoch)
    return task.get_batch_iterator(
        task.dataset("train"), max_tokens=60, max_positions=(99, 99), seed=1, epoch=epoch
    )


def test_a_run_resumed_in_a_later_epoch_goes_through_the_batches_of_the_first(corpus):
    ours, theirs = (
        [iterator_of(*of, corpus, epoch) for epoch in (1, 3)]
        for of in (
            (
                TASK_REGISTRY["translation_neuroprune"],
                TASK_DATACLASS_REGISTRY["translation_neuroprune"](),
            ),
            (TranslationTask, TranslationConfig()),
        )
    )
    batches = [
        [batch.tolist() for batch in iterator.frozen_batches] for iterator in (*ours, *theirs)
    ]
    assert batches[0] == batches[1] == batches[2]
    assert batches[3] != batches[2], "what fairseq itself does"
    assert [iterator.next_epoch_idx for iterator in ours] == [1, 3]


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return index

    def __len__(self):
        return 12


def numbers(workers, worker=0):
    plain = EpochBatchIterator(
        Numbers(), list, [[i] for i in range(12)], num_shards=workers, shard_id=worker
    )
    return resume.RunIterator.of(plain, epoch=2)


@pytest.mark.parametrize(
    ("before", "after", "steps", "again"),
    [(1, 1, 5, 0), (1, 2, 4, 0), (2, 1, 3, 0), (2, 3, 3, 0), (1, 2, 5, 1), (2, 3, 5, 1)],
)
def test_other_workers_go_on_with_the_batches_that_are_left(before, after, steps, again):
    """``again``: of the batches done, so many are left over when they are shared out anew."""
    seen, states = [], []
    for worker in range(before):
        iterator = numbers(before, worker)
        batches = iterator.next_epoch_itr()
        seen += [i for _ in range(steps) for i in next(batches)]
        states.append(iterator.state_dict())
    left = []
    for worker in range(after):
        iterator = numbers(after, worker)
        iterator.load_state_dict(states[0])
        left += [i for batch in iterator.next_epoch_itr() for i in batch]
    assert set(seen) | set(left) == set(range(12))
    assert len(seen) + len(left) == 12 + again


# Files that a kill leaves behind.


@pytest.fixture
def save_dir(tmp_path):
    """A checkpoint of each of three epochs, and a torso where the last was being copied."""
    for epoch in (1, 2, 3):
        path = tmp_path / f"checkpoint{epoch}.pt"
        torch.save({"epoch": epoch}, path)
        os.utime(path, (1000 + epoch, 1000 + epoch))
    content = (tmp_path / "checkpoint3.pt").read_bytes()
    (tmp_path / "checkpoint_last.pt").write_bytes(content[: len(content) // 2])
    return tmp_path


def test_a_half_copied_last_checkpoint_is_replaced_by_its_source(save_dir):
    resume.rescue_last_checkpoint(save_dir)
    assert torch.load(save_dir / "checkpoint_last.pt") == {"epoch": 3}
    assert len(list(save_dir.iterdir())) == 4, "nothing else is left behind"


@pytest.mark.parametrize("torso", [b"", b"PK\x03\x04", b"no checkpoint"])
def test_a_torso_is_never_gone_on_from(save_dir, torso):
    for name in ("checkpoint3.pt", "checkpoint_last.pt"):
        (save_dir / name).write_bytes(torso)
    resume.rescue_last_checkpoint(save_dir)
    assert torch.load(save_dir / "checkpoint_last.pt") == {"epoch": 2}


def test_a_whole_last_checkpoint_and_an_empty_folder_stay_as_they_are(save_dir, tmp_path_factory):
    torch.save({"epoch": 7}, save_dir / "checkpoint_last.pt")
    resume.rescue_last_checkpoint(save_dir)
    assert torch.load(save_dir / "checkpoint_last.pt") == {"epoch": 7}
    empty = tmp_path_factory.mktemp("empty")
    resume.rescue_last_checkpoint(empty)
    resume.rescue_last_checkpoint(empty / "missing")
    assert not list(empty.iterdir())


def test_without_any_whole_checkpoint_the_way_out_is_named(save_dir):
    for path in save_dir.glob("checkpoint?.pt"):
        path.unlink()
    with pytest.raises(SystemExit, match="checkpoint_last.pt is damaged .*remove it") as exit_:
        resume.rescue_last_checkpoint(save_dir)
    assert "\n" not in str(exit_.value)


def test_what_a_killed_writer_of_the_log_left_is_gone_after_the_next_epoch(tmp_path):
    path = tmp_path / run_log.FILE_NAME
    run_log.write_epoch(path, {"epoch": 1})
    replace, run_log.os.replace = os.replace, lambda *_: None  # killed before it renames
    try:
        run_log.write_epoch(path, {"epoch": 2, "first": True})
    finally:
        run_log.os.replace = replace
    assert len(list(tmp_path.iterdir())) == 2
    for epoch in (2, 3, 2):  # the last: killed before the third epoch's checkpoint
        run_log.write_epoch(path, {"epoch": epoch})
    assert epoch_lines(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_log_that_finds_no_room_for_an_epoch_keeps_those_before(tmp_path):
    path = tmp_path / run_log.FILE_NAME
    run_log.write_epoch(path, {"epoch": 1})
    path.with_name(f"{path.name}.tmp").symlink_to("/dev/full")
    with pytest.raises(SystemExit, match="neuroprune.jsonl cannot be written; make room .*No spa"):
        run_log.write_epoch(path, {"epoch": 2})
    assert epoch_lines(tmp_path) == [{"epoch": 1}]
    assert list(tmp_path.iterdir()) == [path]


# State that fairseq does not keep.


@pytest.mark.parametrize("flags", [FLAT, SHAPED, BF16])
def test_master_weights_are_kept_in_full_precision(build_model, monkeypatch, flags):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # fairseq asks for it
    models = [build_model(seed=seed) for seed in (1, 2)]
    optimizers = [build_optimizer(model, flags) for model in models]
    with master_weights(optimizers[0]), torch.no_grad():
        for parameter in models[0].parameters():
            parameter.add_(1e-6)  # less than half precision can tell
    restore_half_precision_(optimizers[1], half_precision_state(optimizers[0]))
    ours, theirs = (full_weights(*pair) for pair in zip(optimizers, models))
    assert all(torch.equal(first, second) for first, second in zip(ours, theirs))


def test_full_precision_has_no_state_of_its_own():
    class Plain:
        pass

    assert half_precision_state(Plain()) == {}
    restore_half_precision_(Plain(), {"master_weights": torch.ones(3), "num_updates": 1})


@pytest.mark.parametrize(
    ("updates", "max_update", "patience", "runs", "leaves"),
    [
        (9, 0, -1, 5, False),
        (9, 10, 3, 2, False),
        (10, 10, -1, 0, True),
        (9, 0, 3, 3, True),
    ],
)
def test_a_run_that_had_ended_does_nothing_more(updates, max_update, patience, runs, leaves):
    memory = resume.early_stopping()
    earlier = dict(memory)
    memory["num_runs"] = runs
    try:
        if leaves:
            with pytest.raises(SystemExit) as exit_:
                resume.leave_if_finished(updates, max_update, patience)
            assert exit_.value.code == 0
        else:
            resume.leave_if_finished(updates, max_update, patience)
    finally:
        memory.clear()
        memory.update(earlier)


# Whole runs, in processes that are killed.


@pytest.mark.slow
def test_a_run_killed_in_an_update_after_pruning_or_while_saving_ends_bit_identical(corpus):
    """updating:13 is in the middle of epoch 2, pruned:2 between its pruning and its checkpoint."""
    events = ("updating:13", "pruned:2", "copying:2")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "survive_kill.py", "--data", corpus]
        + ["--kills", "0", "--events", *events, "--", "--max-tokens", "120"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [kill["event"] for kill in result["all"]] == list(events)
    assert result["same"] == 3


# Whole runs, in this process; what is copied to checkpoint_last.pt is what a kill leaves.


def go_on_from(whole: Path, checkpoint: str, run: Path) -> None:
    run.mkdir()
    (run / "checkpoint_last.pt").write_bytes((whole / checkpoint).read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--bf16 --target-heads 12 --target-sparsity 0.6 --target-interval 2",
        "--store-ema --ema-decay 0.9 --ema-fp32 --head-distance-threshold 0.33 --update-freq 2",
        "--finetune-from-model {pretrained} --store-ema --patience 6 --head-distance-threshold .33",
    ],
)
def test_a_run_resumed_in_its_second_epoch_is_the_same_run(run_train, tmp_path, flags):
    if "{pretrained}" in flags:
        run_train(*SMALL, "--max-epoch", 1, name="pretrained")
    flags = flags.format(pretrained=tmp_path / "pretrained" / "checkpoint_last.pt").split()
    flags = (*SMALL, *flags, "--max-epoch", 3, "--save-interval-updates", 2)
    whole = run_train(*flags, name="whole")
    middle = sorted((tmp_path / "whole").glob("checkpoint_2_*.pt"))[0]
    go_on_from(tmp_path / "whole", middle.name, tmp_path / "run")
    resumed = run_train(*flags)
    assert_equal_weights(resumed, whole)
    assert epoch_lines(tmp_path / "run")[-1] == epoch_lines(tmp_path / "whole")[-1]
    for name, value in whole["extra_state"].get("ema", {}).items():
        assert torch.equal(resumed["extra_state"]["ema"][name], value), name
    state = resumed["extra_state"]["TranslationNeuropruneTask"]
    assert state["num_updates"] == whole["extra_state"]["TranslationNeuropruneTask"]["num_updates"]
    assert (
        state["early_stopping"]
        == whole["extra_state"]["TranslationNeuropruneTask"]["early_stopping"]
    )


@pytest.mark.slow
def test_a_target_is_reached_although_the_optimizer_was_reset_on_the_way(run_train, tmp_path):
    flags = (*SMALL, "--max-epoch", 2, "--target-heads", 12, "--target-interval", 2)
    flags = (*flags, "--target-sparsity", 0.6, "--save-interval-updates", 4)
    whole = run_train(*flags, name="whole")
    go_on_from(tmp_path / "whole", "checkpoint_1_8.pt", tmp_path / "run")
    # 10 updates are left of 18, and the targets are due at the twelfth.
    resumed = run_train(*flags, "--reset-optimizer")
    assert resumed["optimizer_history"][-1]["num_updates"] == 10, "fairseq counts anew"
    (line,) = epoch_lines(tmp_path / "run")[-1:]
    assert line["num_updates"] == whole["optimizer_history"][-1]["num_updates"] == 18
    assert line["heads_kept"] == heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 12
    assert line["total_sparsity"] == pytest.approx(0.6, abs=5e-3)


@pytest.mark.slow
def test_a_run_that_had_reached_its_last_update_stays_as_it_is(run_train, tmp_path):
    run_train(*SMALL, "--max-update", 3)
    last = tmp_path / "run" / "checkpoint_last.pt"
    content = last.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        run_train(*SMALL, "--max-update", 3)
    assert exit_.value.code == 0
    assert last.read_bytes() == content
