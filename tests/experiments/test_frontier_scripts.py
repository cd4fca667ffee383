"""What a study calls: the scripts of a run, and the command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_frontier_run import ROOT, experiment, results

from neuroprune_experiments.frontier.methods import Run
from neuroprune_experiments.frontier.runner import (
    RunFailedError,
    ScriptRunner,
    StoppedError,
    try_lock,
)

# The scripts.

FINETUNE = """#!/usr/bin/env bash
printf '%s\\n' "$@" >>"{folder}/calls"
while [ $# -gt 0 ]; do case $1 in --save-dir) dir=$2 ;; esac; shift; done
mkdir -p "$dir"
if [ -e "{folder}/slow" ]; then touch "{folder}/began"; sleep 30; fi
if [ -e "{folder}/fail" ]; then echo "so far so good"; echo "tool: error: no" >&2; exit 2; fi
touch "$dir/checkpoint_last.pt"
"""
EVALUATE = """#!/usr/bin/env bash
while [ $# -gt 0 ]; do
  case $1 in --results) file=$2 ;; --subset) subsets="$2 $3" ;; --tolerance) tolerance=$2 ;; esac
  shift
done
echo "evaluate $subsets" >>"{folder}/calls"
for subset in $subsets; do
  bleu=30; [ "$subset" = valid ] && bleu=31
  echo "{{\\"label\\": \\"x\\", \\"bleu\\": $bleu, \\"generation_settings\\": [\\"--beam\\"], \
\\"subset\\": \\"$subset\\", \\"tolerance\\": $tolerance, \\"heads_kept\\": 36, \
\\"heads_total\\": 108, \\"total_sparsity\\": 0.5, \\"train_seconds\\": 7}}" >>"$file"
done
"""


@pytest.fixture
def scripts(tmp_path):
    """A folder of scripts that note their arguments."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name in ("finetune_baseline.sh", "finetune_neuroprune.sh", "finetune_targets.sh"):
        (folder / name).write_text(FINETUNE.format(folder=tmp_path))
    (folder / "evaluate.sh").write_text(EVALUATE.format(folder=tmp_path))
    return folder


def calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def run_one(tmp_path, scripts, run=None, **changes):
    run = run or Run("dsp", {"heads-to-keep": "36", "lr": "0.001"}, 3)
    out = tmp_path / "out"
    runner = ScriptRunner(experiment(out, run.method, scripts=scripts, **changes))
    descriptor = try_lock(out / run.name / ".claim")
    try:
        return runner(run, descriptor)
    finally:
        os.close(descriptor)


def test_a_run_is_fine_tuned_and_evaluated_through_the_scripts(tmp_path, scripts):
    found = run_one(tmp_path, scripts, flags=("--cpu", "--lr", "9"))
    name = "dsp-heads36-lr0.001-s3"
    expected = ["--cpu", "--lr", "9", "--data", "data", "--pretrained", "p.pt"]
    expected += ["--save-dir", f"{tmp_path}/out/{name}", "--epochs", "2", "--seed", "3"]
    expected += ["--pruner", "dsp", "--dsp-mode", "joint", "--heads-to-keep", "36"]
    expected += ["--lr", "0.001", "evaluate valid test"]
    assert calls(tmp_path) == expected
    assert found == {
        **{"label": name, "method": "dsp", "seed": 3, "epochs": 2, "flags": ["--cpu", "--lr", "9"]},
        **{"settings": {"heads-to-keep": "36", "lr": "0.001"}, "generation_settings": ["--beam"]},
        **{"bleu": 30, "valid_bleu": 31, "subset": "test", "tolerance": 0.001, "train_seconds": 7},
        **{"heads_kept": 36, "heads_total": 108, "total_sparsity": 0.5},
    }


def test_an_evaluation_that_is_there_is_not_repeated(tmp_path, scripts):
    first = run_one(tmp_path, scripts)
    assert run_one(tmp_path, scripts) == first
    assert calls(tmp_path).count("evaluate valid test") == 1
    run_one(tmp_path, scripts, tolerance=0.0)
    assert calls(tmp_path).count("evaluate valid test") == 2


def test_a_failed_script_is_reported_by_its_last_line(tmp_path, scripts):
    (tmp_path / "fail").touch()
    with pytest.raises(RunFailedError, match="^tool: error: no$"):
        run_one(tmp_path, scripts)


def test_stopping_ends_the_scripts(tmp_path, scripts):
    (tmp_path / "slow").touch()
    run, out = Run("l1", {"l1-penalty-weight": "1"}, 1), tmp_path / "out"
    runner = ScriptRunner(experiment(out, "l1", scripts=scripts))
    path = out / run.name / ".claim"
    descriptor = try_lock(path)
    threading.Thread(target=stop_when_begun, args=(tmp_path, runner)).start()
    with pytest.raises(StoppedError):
        runner(run, descriptor)
    os.close(descriptor)
    again = try_lock(path)  # free: no process of the script lives on with it
    assert again is not None
    os.close(again)


def stop_when_begun(tmp_path, runner):
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    runner.stop()


# The command, in a process of its own.


@pytest.fixture
def pretrained(run_train, tmp_path):
    """A checkpoint of fairseq-train after one update."""
    run_train(
        *("--max-update", "1"),
        **{"name": "pretrained", "task": "translation"},
        criterion="label_smoothed_cross_entropy",
    )
    return tmp_path / "pretrained" / "checkpoint_last.pt"


def start(*arguments, **options):
    """The command; whoever gives no sign of life for three seconds is dead."""
    code = "from neuroprune_experiments.frontier import command, storage\n"
    code += "storage.HEARTBEAT, storage.GRACE = 1, 3\ncommand.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "jobs"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGKILL, 1)]
)
def test_a_killed_command_goes_on_and_repeats_nothing(
    tmp_path, scripts, corpus, pretrained, number, jobs
):
    (tmp_path / "slow").touch()
    arguments = ["--method", "dsp", "--grid", "heads-to-keep=36,54", "--epochs", "2"]
    arguments += ["--data", corpus, "--pretrained", pretrained, "--out", tmp_path / "out"]
    arguments += ["--scripts", scripts, "--jobs", jobs]
    first = start(*arguments)
    while not (tmp_path / "began").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(number)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    if number == signal.SIGTERM:
        assert errors.splitlines()[-1].endswith("stopped; the same command goes on from here")
    else:  # its training lives on, and ends now
        end_trainings(scripts)

    (tmp_path / "slow").unlink()
    output, errors = start(*arguments).communicate(timeout=120)
    assert "2 of 2 runs are in" in output, errors
    assert jobs > 1 or "1 of 2 runs, about" in errors
    assert len(results(tmp_path / "out")) == 2
    assert calls(tmp_path).count("evaluate valid test") == 2


def end_trainings(scripts):
    """Kill what runs a script of the test's folder, with all that it started."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(scripts) in path.read_text():
                os.killpg(int(path.parent.name), signal.SIGKILL)
