"""The shell scripts: options, refusals, and what they pass on.

Where a script would train, a stand-in for Python notes the arguments instead.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    *("prepare", "pretrain", "finetune_targets", "finetune_neuroprune", "finetune_baseline"),
    *("quickstart", "test"),
)


def run(script, *arguments, **environment):
    """Runs scripts/NAME.sh; returns the finished process."""
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / f"{script}.sh"), *map(str, arguments)],
        env={**os.environ, "NEUROPRUNE_PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_in(tmp_path):
    """A Python whose ``-m fairseq_cli.train`` notes its arguments; fails where told to."""
    program = f"""#!/usr/bin/env bash
case $1 in
  */model_flags.py) printf '%s\\0' --arch=transformer_18x6_tiny '--activation-fn=a b'; exit ;;
esac
if [ "$1 $2" != "-m fairseq_cli.train" ]; then exec {sys.executable} "$@"; fi
shift 2
printf '%s\\n' "$@" >>"{tmp_path}/calls"
echo "2026-01-01 | INFO | train | epoch 001 | loss 2"
if [ -e "{tmp_path}/fail" ]; then echo "no such thing" >&2; exit 3; fi
"""
    return str(write_program(tmp_path / "python", program))


@pytest.fixture
def data(tmp_path):
    """A folder that looks like a prepared corpus."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("dict.de.txt", "dict.en.txt", "train.de-en.de.idx"):
        (folder / name).touch()
    return folder


def calls(tmp_path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def as_dict(arguments: list[str]) -> dict[str, str]:
    """Flags and their values; the last of equal flags counts."""
    pairs = zip(arguments, [*arguments[1:], ""])
    return {flag: value for flag, value in pairs if flag.startswith("--")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_options_and_needs_no_environment(script):
    done = run(script, "--help", NEUROPRUNE_PYTHON="")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert "--" in done.stdout


def test_pretraining_passes_exactly_the_documented_settings_to_fairseq(tmp_path, data, stand_in):
    options = "--arch transformer_18x6_small --epochs 12 --lr 2e-3 --warmup-updates 600"
    options += " --dropout 0.1"
    done = run(
        "pretrain",
        *("--data", data, "--save-dir", tmp_path / "run", *options.split()),
        NEUROPRUNE_PYTHON=stand_in,
    )
    assert done.returncode == 0, done.stderr
    expected = f"""{data} --user-dir {ROOT}/neuroprune_fairseq --save-dir {tmp_path}/run
        --task translation --arch transformer_18x6_small --share-all-embeddings --dropout 0.3
        --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam
        --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --weight-decay 0.0001 --lr 5e-4
        --lr-scheduler inverse_sqrt --warmup-updates 4000 --max-tokens 4096
        --max-epoch 12 --seed 1 --no-epoch-checkpoints --log-interval 25
        --lr 2e-3 --warmup-updates 600 --dropout 0.1"""
    assert calls(tmp_path) == shlex.split(expected)


def test_flags_are_passed_on_with_their_values_in_order(tmp_path, data, stand_in):
    done = run(
        "pretrain",
        *("--data", data, "--patience", "3", f"--save-dir={tmp_path}/run", "--fp16"),
        *("--seed", "7", "a b"),
        NEUROPRUNE_PYTHON=stand_in,
    )
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path)[-6:] == ["--patience", "3", "--fp16", "--seed", "7", "a b"]


def test_the_recorded_command_is_the_one_that_ran(tmp_path, data, stand_in):
    folder = tmp_path / "it's here"
    run("pretrain", "--data", data, "--save-dir", folder, NEUROPRUNE_PYTHON=stand_in)
    command = (folder / "command.txt").read_text()
    plain = command.replace('"$(neuroprune-user-dir)"', f"{ROOT}/neuroprune_fairseq")
    assert shlex.split(plain) == ["fairseq-train", *calls(tmp_path)]


@pytest.fixture
def finetune(tmp_path, data, stand_in):
    """Runs a recipe on an empty checkpoint; returns the process and the flags."""
    (tmp_path / "pretrained.pt").touch()

    def run_it(recipe, *options):
        done = run(
            f"finetune_{recipe}",
            *("--data", data, "--pretrained", tmp_path / "pretrained.pt"),
            *("--save-dir", tmp_path / "run", *options),
            NEUROPRUNE_PYTHON=stand_in,
        )
        assert done.returncode == 0, done.stderr
        return as_dict(calls(tmp_path))

    return run_it


RECIPES = {
    "targets": {"--target-sparsity": "0.5"},
    "neuroprune": {
        "--attn-penalty-weight": "0.005",
        "--mlp-penalty-weight": "0.05",
        "--head-distance-threshold": "0.2",
    },
    "baseline": {},
}
PRUNING = {"--target-heads", "--pruner", "--l1-penalty-weight"}.union(*RECIPES.values())


@pytest.mark.parametrize(("recipe", "expected"), RECIPES.items())
def test_a_recipe_prunes_as_it_says_and_takes_the_model_over(finetune, tmp_path, recipe, expected):
    flags = finetune(recipe)
    assert {name: flags[name] for name in PRUNING & flags.keys()} == expected
    assert flags["--finetune-from-model"] == f"{tmp_path}/pretrained.pt"
    assert flags["--task"] == "translation_neuroprune"
    assert flags["--criterion"] == "label_smoothed_cross_entropy_neuroprune"
    assert "--arch=transformer_18x6_tiny" in flags
    assert "--activation-fn=a b" in flags, "a setting of the checkpoint stays one word"


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_given_comes_after_what_the_recipe_says(finetune, recipe):
    given = {"--attn-penalty-weight": "1e-3", "--head-merge": "fc1", "--dropout": "0.2"}
    flags = finetune(recipe, *(word for pair in given.items() for word in pair), "--lr", "3")
    assert {**given, "--lr": "3"}.items() <= flags.items()


@pytest.mark.parametrize(
    "target", ["--target-heads=9", "--target-attn-sparsity=0.1", "--target-sparsity=0.1"]
)
def test_a_target_takes_the_place_of_the_recipes_own(finetune, target):
    assert "--target-sparsity" not in finetune("targets", target)


def test_other_flags_that_begin_like_a_target_leave_the_recipes_own(finetune):
    flags = finetune("targets", "--target-lang", "en", "--target-update", "5")
    assert flags["--target-sparsity"] == "0.5"


def test_a_finished_run_is_skipped_by_the_same_command(tmp_path, data, stand_in):
    for _ in range(2):
        done = run(
            "pretrain",
            *("--data", data, "--save-dir", tmp_path / "run"),
            NEUROPRUNE_PYTHON=stand_in,
        )
        assert done.returncode == 0, done.stderr
    assert calls(tmp_path).count("--max-epoch") == 1
    assert "already trained" in done.stdout
    finished = json.loads((tmp_path / "run" / "finished.json").read_text())
    assert finished["sessions"] == 1
    assert 0 <= finished["train_seconds"] < 60


def test_another_command_never_touches_the_results_of_the_first(tmp_path, data, stand_in):
    folder = tmp_path / "run"
    command = ("--data", data, "--save-dir", folder)
    run("pretrain", *command, NEUROPRUNE_PYTHON=stand_in)
    (folder / "checkpoint_last.pt").write_text("precious")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for finished in (True, False):
        if not finished:
            (folder / "finished.json").unlink()
            before.pop("finished.json")
        done = run("pretrain", *command, "--epochs", "16", NEUROPRUNE_PYTHON=stand_in)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "holds another command's results" in done.stderr
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert calls(tmp_path).count("--max-epoch") == 1


def test_a_failed_run_is_not_finished_says_why_and_can_be_corrected(tmp_path, data, stand_in):
    folder, command = tmp_path / "run", ("--data", data, "--save-dir", tmp_path / "run")
    (tmp_path / "fail").touch()
    done = run("pretrain", *command, NEUROPRUNE_PYTHON=stand_in)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "fairseq-train failed (exit status 3): no such thing; its log is" in done.stderr
    assert "no such thing" in (folder / "train.log").read_text()
    assert not (folder / "finished.json").exists()
    (tmp_path / "fail").unlink()
    done = run("pretrain", *command, "--lr", "1e-3", NEUROPRUNE_PYTHON=stand_in)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "finished.json").read_text())["sessions"] == 2


def test_a_failed_run_says_why_on_a_full_disk_too(tmp_path, data, stand_in):
    (tmp_path / "fail").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to("/dev/full")
    command = ("--data", data, "--save-dir", tmp_path / "run")
    done = run("pretrain", *command, NEUROPRUNE_PYTHON=stand_in)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "fairseq-train failed" in done.stderr and "no such thing" in done.stderr


def test_a_named_interpreter_without_the_packages_gets_one_line(tmp_path, data):
    bare = write_program(tmp_path / "bare", f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    command = ("--data", data, "--save-dir", tmp_path / "run")
    done = run("pretrain", *command, NEUROPRUNE_PYTHON=str(bare))
    assert done.returncode == 2
    assert "lacks torch, fairseq" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_interpreter_that_does_not_run_gets_one_line(tmp_path, data):
    command = ("--data", data, "--save-dir", tmp_path / "run")
    done = run("pretrain", *command, NEUROPRUNE_PYTHON="/no/python")
    assert done.returncode == 2
    assert done.stderr == "pretrain.sh: error: NEUROPRUNE_PYTHON=/no/python does not run\n"
    assert not (tmp_path / "run").exists()
