"""One run: fine-tune through the shell scripts, evaluate on valid and test, one record."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroprune_experiments.frontier.methods import METHODS, Run, script_options
from neuroprune_fairseq.files.text import printable

# How long (s) a stopped training may take to end by itself.
PATIENCE = 20
SUBSETS = ("valid", "test")  # of the corpus: to select runs by, to compare them by


class RunFailedError(Exception):
    """A script ended with an error; the text is its last line."""


class StoppedError(Exception):
    """The run was stopped from outside, and can be gone on with."""


@dataclass(frozen=True)
class Experiment:
    """What all runs of a study have in common."""

    method: str
    data: Path
    pretrained: Path
    out: Path
    epochs: int
    tolerance: float
    flags: tuple[str, ...]
    scripts: Path


def try_lock(path: Path, wait: bool = False) -> int | None:
    """Lock a file against other threads and processes.

    Args:
        path: made with its folder where missing; never removed.
        wait: until it is free.

    Returns:
        A file descriptor that holds the lock until it is closed here and in every process
        it was passed to; None if another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class ScriptRunner:
    """Runs experiments through finetune_*.sh and evaluate.sh; what is done is not repeated."""

    def __init__(self, experiment: Experiment, jobs: int = 1) -> None:
        self.experiment = experiment
        self._environment = {"NEUROPRUNE_PYTHON": sys.executable, **os.environ}
        if jobs > 1:  # threads that wait for a core by spinning cost more than they bring
            threads = max(1, (os.cpu_count() or 1) // jobs)
            self._environment.setdefault("OMP_NUM_THREADS", str(threads))
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.RLock()  # stop() may be called by a signal
        self._stopped = False

    def __call__(self, run: Run, claim: int) -> dict[str, Any]:
        """Do one run.

        Args:
            run: what to train.
            claim: lock of its folder, which the scripts inherit: a training that outlives a
                killed worker keeps it.

        Returns:
            Its line for results.jsonl.

        Raises:
            RunFailedError: a script failed; its output is in frontier.log of the folder.
            StoppedError: :meth:`stop` was called.
        """
        self._call(run, claim, self.training_command(run))
        valid, test = self._evaluate(run, claim)
        return {
            **test,
            "label": run.name,
            "method": run.method,
            "settings": run.settings,
            "seed": run.seed,
            "epochs": self.experiment.epochs,
            "flags": list(self.experiment.flags),
            "valid_bleu": valid["bleu"],
        }

    def stop(self) -> None:
        """End what is running; every call that waits for it raises StoppedError."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                _signal_group(process, signal.SIGTERM)

    def training_command(self, run: Run) -> list[str]:
        """The command line that fine-tunes one setting; what was passed on comes first."""
        experiment = self.experiment
        return [
            *("bash", str(experiment.scripts / METHODS[run.method].script), *experiment.flags),
            *("--data", str(experiment.data), "--pretrained", str(experiment.pretrained)),
            *("--save-dir", str(experiment.out / run.name), "--epochs", str(experiment.epochs)),
            *("--seed", str(run.seed), *script_options(run)),
        ]

    def _evaluate(self, run: Run, claim: int) -> list[dict[str, Any]]:
        """evaluate.sh's records of SUBSETS, made if they are not there."""
        experiment, folder = self.experiment, self.experiment.out / run.name
        results = folder / "evaluations.jsonl"
        if len(records := _last_records(results, experiment.tolerance)) == len(SUBSETS):
            return records
        command = ["bash", str(experiment.scripts / "evaluate.sh")]
        command += ["--data", str(experiment.data), "--label", run.name, "--subset", *SUBSETS]
        command += ["--checkpoint", str(folder / "checkpoint_last.pt")]
        command += ["--tolerance", f"{experiment.tolerance:g}", "--results", str(results)]
        self._call(run, claim, command)
        if len(records := _last_records(results, experiment.tolerance)) == len(SUBSETS):
            return records
        raise RunFailedError(f"evaluate.sh wrote no records into {results}")

    def _call(self, run: Run, claim: int, command: list[str]) -> None:
        """Run one script to its end, its output into frontier.log."""
        log = self.experiment.out / run.name / "frontier.log"
        with log.open("ab") as output:
            begin = output.tell()
            with self._lock:
                if self._stopped:
                    raise StoppedError
                # A session of its own: Ctrl-C reaches us alone, and stop() reaches all of it.
                process = subprocess.Popen(
                    command,
                    **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT},
                    **{"env": self._environment, "pass_fds": [claim], "start_new_session": True},
                )
                self._processes.add(process)
            if self._stopped:  # in this very moment
                _signal_group(process, signal.SIGTERM)
            status = process.wait()
        with self._lock:
            self._processes.discard(process)
        if self._stopped:
            _end_group(process)
            raise StoppedError
        if status:
            said = log.read_bytes()[begin:].decode("utf-8", "replace").strip().split("\n")
            raise RunFailedError(said[-1].strip() or f"exit status {status}")


def _signal_group(process: subprocess.Popen, number: int) -> bool:
    """Whether there was a process to signal; 0 only asks."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
        return True
    return False


def _end_group(process: subprocess.Popen) -> None:
    """Wait until what a script has started is gone, too."""
    end = time.monotonic() + PATIENCE
    while _signal_group(process, 0) and time.monotonic() < end:
        time.sleep(0.05)
    _signal_group(process, signal.SIGKILL)


def _last_records(path: Path, tolerance: float) -> list[dict[str, Any]]:
    """The last record of evaluate.sh of this tolerance for each of SUBSETS, where there is one."""
    found = {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        for line in path.read_text(encoding="utf-8").strip().split("\n"):
            record = json.loads(line)
            if "bleu" in record and record.get("tolerance") == tolerance:
                found[record.get("subset")] = record
    return [found[subset] for subset in SUBSETS if subset in found]


def say(text: str) -> None:
    """Say how far the sweep is."""
    print(printable(text), file=sys.stderr, flush=True)


def describe(record: dict[str, Any]) -> str:
    """The outcome of a run on one line."""
    return (
        f"{record['label']}: BLEU {record['bleu']:.2f} (validation {record['valid_bleu']:.2f}), "
        f"{record['heads_kept']} of {record['heads_total']} heads, "
        f"sparsity {record['total_sparsity']:.3f}"
    )
