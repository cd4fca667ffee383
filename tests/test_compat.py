"""Version checks in one line, and checkpoints that load without running code."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys

import pytest
import torch

from neuroprune_fairseq.compat import check_version


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
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
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
