"""Several data-parallel workers (gloo, on the CPU) do what one does with --update-freq."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import USER_DIR
from test_task import epoch_lines

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

# Dropout is off: fairseq gives every worker the same seed, so two draw other masks than one does.
COMMON = [
    *("--user-dir", USER_DIR, "--arch", "transformer_18x6_tiny", "--share-all-embeddings"),
    *("--encoder-layers", "1", "--decoder-layers", "1", "--dropout", "0", "--cpu"),
    *("--optimizer", "adam", "--lr", "2e-3", "--weight-decay", "1e-4"),
    *("--label-smoothing", "0.1", "--max-tokens", "120", "--num-workers", "0"),
    *("--max-epoch", "2", "--no-epoch-checkpoints", "--no-progress-bar"),
    *("--task", "translation_neuroprune"),
]
NEUROPRUNE = "--criterion label_smoothed_cross_entropy_neuroprune "
PRUNER = "--criterion label_smoothed_cross_entropy --pruner "
HEADS = NEUROPRUNE + "--attn-penalty-weight 0.01 --mlp-penalty-weight 0.1"
HEADS += " --head-distance-threshold 0.33"
METHODS = {  # the tiny corpus has 9 batches: 5 updates an epoch
    "neuroprune": HEADS,
    "target": NEUROPRUNE + "--penalty-solver proximal --attn-penalty-weight 0.01"
    " --target-heads 6 --target-sparsity 0.6 --target-interval 2",
    "shrink": HEADS + " --shrink",
    "budget": NEUROPRUNE + "--target-flops 0.35 --target-interval 2 --decoder-layers 2",
    "taught": HEADS + " --distill-from {teacher}",
    "dsp": PRUNER + "dsp --heads-to-keep 6",
    "cofi": PRUNER + "cofi --target-sparsity 0.5 --score-lr 1",
    "michel": PRUNER + "michel --heads-to-keep 6 --prune-updates 8 --prune-steps 4"
    " --importance-recompute",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ON_CPU = ["--distributed-world-size", "2", "--distributed-rank=-1", "--distributed-no-spawn"]
ON_CPU += ["--distributed-init-method", "env://", "--distributed-backend", "gloo"]
ON_CPU += ["--ddp-backend", "legacy_ddp"]


def job(folder, data, name, method, workers, **settings):
    """A training that makes the same updates whether one or two workers make them."""
    flags = METHODS[method].format(teacher=folder / "teacher.pt").split()
    arguments = [data, *COMMON, *flags, "--update-freq", 2 // workers]
    arguments += ["--save-dir", folder / name]
    log = folder / f"{name}.log"
    return {"arguments": [*map(str, arguments)], "log": str(log), "workers": workers, **settings}


@pytest.fixture(scope="module")
def runs(corpus, checkpoints, tmp_path_factory):
    """The folder in which all of the runs are, in pairs NAME-1 and NAME-2."""
    folder = tmp_path_factory.mktemp("workers")
    shutil.copy(checkpoints.dense, folder / "teacher.pt")
    jobs = [
        job(folder, corpus, f"{method}-{workers}", method, workers)
        for method in METHODS
        for workers in (1, 2)
    ]
    # Killed before update 8; its checkpoint, of update 6, is in the middle of epoch 2.
    for method in ("neuroprune", "target"):
        for workers, events in ((1, [["updating", 8]]), (2, [])):
            grows = job(folder, corpus, f"grows-{method}", method, workers, events=events)
            grows["arguments"] += ["--save-interval-updates", "6"]
            jobs.append(grows)
    dissent = [None, ["deciding otherwise", 1]]
    jobs.append(job(folder, corpus, "dissent", "neuroprune", 2, events=dissent))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "training_processes.py", folder / "jobs.json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    statuses = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [
        [-9] if each.get("events") == [["updating", 8]] else [0] * each["workers"] for each in jobs
    ]
    assert statuses == expected, done.stderr
    return folder


def weights(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def assert_same_run(ours, theirs):
    lines = [epoch_lines(folder) for folder in (ours, theirs)]
    assert len(lines[1]) == 2
    for one, other in zip(*lines, strict=True):
        assert one["num_updates"] == other["num_updates"]
        assert one["heads_kept"] == other["heads_kept"]
        names = ("module", "heads_kept", "replaced")
        for module, same in zip(one.get("modules", []), other.get("modules", [])):
            assert [module[name] for name in names] == [same[name] for name in names]
    ours, theirs = weights(ours), weights(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_prune_the_heads_that_one_worker_does(runs, method):
    assert_same_run(runs / f"{method}-2", runs / f"{method}-1")
    assert epoch_lines(runs / f"{method}-1")[-1]["heads_kept"] < 18, "there was something to decide"


@pytest.mark.parametrize("method", ["neuroprune", "target"])
def test_a_run_begun_by_one_worker_is_gone_on_with_by_two_in_the_middle_of_an_epoch(runs, method):
    assert_same_run(runs / f"grows-{method}", runs / f"{method}-1")


def test_a_worker_that_would_decide_otherwise_follows_the_first(runs):
    ours, theirs = weights(runs / "dissent"), weights(runs / "neuroprune-2")
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_torchrun_trains_what_one_process_trains(runs, corpus):
    arguments = job(runs, corpus, "torchrun", "neuroprune", 2)["arguments"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    torchrun += ["--standalone", "-m", "fairseq_cli.train"]
    with subprocess.Popen([*torchrun, *arguments, *ON_CPU], env=ENVIRONMENT) as process:
        try:
            assert process.wait(timeout=300) == 0
        finally:
            process.terminate()  # torchrun then ends its workers, too
    assert_same_run(runs / "torchrun", runs / "neuroprune-1")
