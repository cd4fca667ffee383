"""The Slurm example of a training on several nodes, with stand-ins for Slurm and for Python."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_scripts import ROOT, write_program


@pytest.fixture
def checkout(tmp_path):
    """The scripts; srun runs its command here, scontrol notes what it is asked for."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    folder = tmp_path / "programs"
    write_program(folder / "srun", '#!/usr/bin/env bash\nshift\nexec "$@"\n')
    scontrol = f'#!/usr/bin/env bash\necho "$@" >>"{tmp_path}/scontrol"\n'
    write_program(folder / "scontrol", f"{scontrol}echo node7\necho node8\n")
    python = f"""#!/usr/bin/env bash
if [ "$1 $2" != "-m torch.distributed.run" ]; then exec {sys.executable} "$@"; fi
printf '%s\\n' "$@" >"{tmp_path}/calls.new"
mv "{tmp_path}/calls.new" "{tmp_path}/calls"
if [ -e "{tmp_path}/slow" ]; then exec sleep 30; fi
if [ -e "{tmp_path}/fail" ]; then exit 3; fi
"""
    write_program(folder / "python", python)
    for name in ("dict.de.txt", "dict.en.txt", "train.de-en.de.idx"):
        (tmp_path / name).touch()
    return tmp_path


def submit(checkout, nodes=2):
    programs = checkout / "programs"
    slurm = {"SLURM_SUBMIT_DIR": checkout, "SLURM_JOB_ID": 123, "SLURM_NNODES": nodes}
    slurm |= {"SLURM_GPUS_ON_NODE": 4, "SLURM_JOB_NODELIST": "node[7-8]"}
    environment = {name: str(value) for name, value in slurm.items()}
    environment |= {"NEUROPRUNE_PYTHON": str(programs / "python")}
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        ["bash", checkout / "scripts" / "train.sbatch", "pretrain", "--data", checkout]
        + ["--save-dir", checkout / "run"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_every_node_starts_its_workers_and_knows_of_the_others(checkout):
    assert submit(checkout).wait(60) == 0
    calls = (checkout / "calls").read_text().splitlines()
    expected = "-m torch.distributed.run --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d"
    expected += " --rdzv_id 123 --rdzv_endpoint node7:20123 -m fairseq_cli.train"
    assert calls[:14] == expected.split()
    assert calls[-2:] == ["--distributed-world-size", "8"]


def test_a_requeued_run_may_get_another_number_of_nodes(checkout):
    assert submit(checkout).wait(60) == 0
    (checkout / "run" / "finished.json").unlink()
    (checkout / "run" / "checkpoint_last.pt").touch()
    assert submit(checkout, nodes=1).wait(60) == 0, "it is still the same command"
    assert (checkout / "calls").read_text().splitlines()[-1] == "4"


def test_a_failed_training_fails_the_job(checkout):
    (checkout / "fail").touch()
    job = submit(checkout)
    assert job.wait(60) != 0
    assert "fairseq-train failed (exit status 3)" in job.stderr.read()


def test_near_its_time_limit_the_job_goes_back_into_the_queue(checkout):
    (checkout / "slow").touch()
    job = submit(checkout)
    deadline = time.monotonic() + 60
    while not (checkout / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0, "at once, not after the training"
    os.killpg(job.pid, signal.SIGKILL)  # as Slurm ends what is left of a job
    assert (checkout / "scontrol").read_text().splitlines()[-1] == "requeue 123"
