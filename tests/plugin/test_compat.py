"""Version checks in one line, and checkpoints that load without running code."""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from neuroprune_fairseq.plugin import compat
from neuroprune_fairseq.plugin.compat import check_version


@pytest.mark.parametrize("version", ["2.6", "2.6.0", "2.13.0+cpu", "3.0.0a0"])
def test_new_enough_versions_pass(version):
    check_version("torch", version, (2, 6))


@pytest.mark.parametrize("version", ["2.5.1", "1.13", "0.9.0+git123", None])
def test_missing_or_old_packages_end_in_one_line_with_the_way_out(version):
    with pytest.raises(SystemExit, match="torch .*>= 2.6.*pip install") as exit_:
        check_version("torch", version, (2, 6))
    assert "\n" not in str(exit_.value)


def test_importing_beside_an_old_fairseq_prints_one_line(tmp_path):
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text("__version__ = '0.9.0'\n")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    run = subprocess.run(
        [sys.executable, "-c", "import neuroprune_fairseq"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.strip().splitlines() == [run.stderr.strip()]
    assert "fairseq 0.9.0 is too old" in run.stderr


def test_a_fairseq_configuration_loads_but_code_in_a_checkpoint_does_not_run(tmp_path):
    torch.save({"args": argparse.Namespace(arch="transformer")}, tmp_path / "good.pt")
    assert torch.load(tmp_path / "good.pt")["args"].arch == "transformer"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"args": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def copy_checkpoint(monkeypatch):
    """fairseq's way of copying a checkpoint, on a disk that takes ``room`` bytes of it."""

    def run(source, to, room):
        manager = checkpoint_utils.PathManager

        def copy(source, to, overwrite):
            content = source.read_bytes()
            Path(to).write_bytes(content[:room])
            if len(content) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return to

        monkeypatch.setattr(manager, "copy", copy)
        monkeypatch.setattr(checkpoint_utils, "_torch_persistent_save", None)
        compat.write_checkpoints_whole()
        return manager.copy(source, str(to), overwrite=True)

    return run


def test_a_checkpoint_is_copied_as_a_whole_or_the_older_one_stays(copy_checkpoint, tmp_path):
    new, last = tmp_path / "checkpoint2.pt", tmp_path / "checkpoint_last.pt"
    new.write_bytes(b"the new one")
    last.write_bytes(b"older")
    with pytest.raises(SystemExit, match="checkpoint_last.pt cannot be written .No space.*room"):
        copy_checkpoint(new, last, room=4)
    assert last.read_bytes() == b"older"
    assert copy_checkpoint(new, last, room=99)
    assert last.read_bytes() == b"the new one"
    assert sorted(tmp_path.iterdir()) == [new, last]


@pytest.mark.parametrize(
    ("iterations", "best", "expected"),
    [(0, 5.0, 4.0), (0, 3.0, 3.0), (0, None, 4.0), (7, 5.0, 5.0)],
)
def test_a_resumed_schedule_knows_the_loss_of_the_epoch_that_was_saved(
    tmp_path, monkeypatch, iterations, best, expected
):
    monkeypatch.setattr(checkpoint_utils, "load_checkpoint_to_cpu", lambda path: torch.load(path))
    compat.remember_best_loss()
    compat.remember_best_loss()
    state = {
        "extra_state": {"val_loss": 4.0, "train_iterator": {"iterations_in_epoch": iterations}}
    }
    state["optimizer_history"] = [{"lr_scheduler_state": {"best": best}}]
    torch.save(state, tmp_path / "checkpoint.pt")
    loaded = checkpoint_utils.load_checkpoint_to_cpu(tmp_path / "checkpoint.pt")
    assert loaded["optimizer_history"][-1]["lr_scheduler_state"]["best"] == expected
    assert len(checkpoint_utils.load_checkpoint_to_cpu.mends) == 1
