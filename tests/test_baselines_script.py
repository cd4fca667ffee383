"""What scripts/finetune_baseline.sh refuses before it starts anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "finetune_baseline.sh"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method foo", "--method must be dsp, voita, michel or l1, not 'foo'"),
        ("--method dsp", "--method dsp needs --heads-to-keep"),
        ("--method l1", "--method l1 needs --l1-penalty-weight"),
        ("--method dsp --heads-to-keep 0", "--heads-to-keep must be a whole number above 0"),
        ("--method dsp --heads-to-keep 9 --prune-steps 3", "--prune-steps is no option of"),
        ("--method dsp --heads-to-keep 9 --dsp-mode x", "--dsp-mode must be joint, pipelined"),
        ("--method voita --l0-penalty-weight x", "--l0-penalty-weight must be a number"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(corpus, tmp_path, flags, message):
    pretrained = tmp_path / "checkpoint.pt"
    pretrained.touch()
    paths = ["--data", corpus, "--pretrained", pretrained, "--save-dir", tmp_path / "run"]
    command = ["bash", SCRIPT, *paths, *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert message in done.stderr and done.stderr.count("\n") == 1
