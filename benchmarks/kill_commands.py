"""Whether a command that is killed with SIGKILL leaves everything whole.

Every command that writes is killed at random moments, later ones likelier since there it writes,
half of the times with an older result in its place. After each kill the result must be the old
one or the whole new one; the same command again must succeed, give what a run without a kill
gives, and leave nothing else behind, neither beside its result nor in TMPDIR. Examples::

    python benchmarks/kill_commands.py --results results/kill-commands.jsonl
    python benchmarks/kill_commands.py --kills 5 --commands compact export
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import rcParams
from survive_kill import METHODS, SMALL, toy_corpus
from training_processes import finish, start

from neuroprune_experiments import evaluate
from neuroprune_experiments.frontier import command as frontier
from neuroprune_experiments.provenance import git_commit, hardware
from neuroprune_experiments.report import command as report
from neuroprune_fairseq.cli import compact, export
from neuroprune_fairseq.files.results import append_line

ROOT = Path(__file__).resolve().parent.parent
NEW, OLD = "checkpoint_last.pt", "checkpoint1.pt"  # of one training: what is read, two results
PYTHONS = "pymp-"  # empty folders of Python's multiprocessing, in fairseq-generate's workers
SIZES = ("--vocab-size", "100", "--train-pairs", "60", "--valid-pairs", "10", "--test-pairs", "10")


def _program(path: Path) -> Callable[[list[str]], None]:
    """A program of ours that is no module, such as data-prep/toy.py."""

    def run(arguments: list[str]) -> None:
        sys.argv[1:] = arguments
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")

    return run


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """Every file in the folder by its name and content."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _evaluated(folder: Path) -> dict[str, str]:
    """What evaluate.sh left, without its times: every line of results, the translations."""
    found = {}
    for path in (path for path in folder.rglob("*") if path.suffix in (".jsonl", ".txt")):
        name, lines = path.relative_to(folder), path.read_text(encoding="utf-8").splitlines()
        if path.suffix == ".jsonl":
            found |= {f"{name} {json.loads(line)['label']}": "there" for line in lines}
        else:
            kept = sorted(line for line in lines if line.startswith(("H-", "Generate")))
            found[str(name)] = str(kept)
    return found


@dataclass(frozen=True)
class Command:
    """One command: ``words`` with the checkpoint to read and the folder to write to filled in."""

    run: Callable[[list[str]], None]
    words: str
    state: Callable[[Path], dict[str, str]] = _digests
    mixed: bool = False  # several files, each of which may be the old or the new one
    has_old: bool = True  # an older result may be there


COMMANDS = {
    "compact": Command(compact.main, "{checkpoint} {out}/small.pt --overwrite"),
    "export": Command(
        export.main, "{checkpoint} {out}/engine --data {data} --sentences 3 --overwrite"
    ),
    "report": Command(
        report.main,
        "{checkpoint} --labels model --figures layers heads --out {out}/page --overwrite",
        mixed=True,
    ),
    "plot": Command(
        frontier.main, "plot {checkpoint}.jsonl --out {out}/front --overwrite", mixed=True
    ),
    "evaluate": Command(
        evaluate.main,
        "--checkpoint {out}/{name} --label {name} --results {out}/results.jsonl --data {data} "
        "--tolerance 0.001 --beam 1 --cpu --max-len-b 5",
        state=_evaluated,
        mixed=True,
    ),
    "prepare": Command(
        _program(ROOT / "data-prep" / "toy.py"),
        "--out {out}/corpus --workers 1 " + shlex.join(SIZES),
        has_old=False,
    ),
}


class Killing:
    """One command in a folder of its own: what it makes of the old and of the new checkpoint."""

    def __init__(self, name: str, folder: Path, data: str, rng: random.Random) -> None:
        self.name, self.command, self.folder, self.rng = name, COMMANDS[name], folder, rng
        self.data, self.log = data, folder / f"{name}.log"
        self.temporary = folder / f"{name}-tmp"
        self.temporary.mkdir()
        self.old_place = self._place("old")
        self._finish(self._start(OLD, self.old_place))
        self.old = self.command.state(self.old_place)
        begin = time.monotonic()
        whole = self._place("whole")
        self._finish(self._start(NEW, whole))
        self.seconds = time.monotonic() - begin
        self.new = self.command.state(whole)

    def _place(self, name: str) -> Path:
        place = self.folder / f"{self.name}-{name}"
        place.mkdir()
        if self.name == "evaluate":  # which writes beside its checkpoint
            for checkpoint in (OLD, NEW):
                (place / checkpoint).symlink_to(self.folder / "training" / checkpoint)
        return place

    def _start(self, checkpoint: str, out: Path) -> int:
        """Start the command in a process group of its own."""
        child = os.fork()
        if child:
            return child
        os.setsid()
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
        names = {"checkpoint": self.folder / "training" / checkpoint, "name": checkpoint}
        log, status = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            self.command.run(
                shlex.split(self.command.words.format(data=self.data, out=out, **names))
            )
            status = 0
        except SystemExit as left:
            print(left.code, file=sys.stderr, flush=True)
            status = int(left.code not in (None, 0))
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _finish(self, child: int) -> None:
        if status := finish(child):
            raise SystemExit(f"kill_commands.py: error: exit status {status}: {self.log}")

    def _kill(self, child: int, moment: float) -> bool:
        """Kill the command and all that it has started; whether it was still there."""
        time.sleep(moment)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        os.killpg(child, signal.SIGKILL)
        finish(child)
        return not ended

    def _fault(self, found: dict[str, str], old: dict[str, str]) -> str:
        """What a kill has left that is neither the old nor the new result."""
        states = (old, self.new)
        if self.command.mixed:
            bad = [n for n in found if found[n] not in [state.get(n) for state in states]]
            bad += [name for name in old if name not in found]
            return f"half-written or lost: {bad}" if bad else ""
        return "" if found in states else f"neither old nor new: {sorted(found)}"

    def kill_once(self, number: int) -> dict[str, Any] | None:
        """Kill one run, look, run it again, look; None where it ended before its kill."""
        old = self.old if self.command.has_old and number % 2 else {}
        if old:
            out = self.folder / f"{self.name}-{number}"
            shutil.copytree(self.old_place, out, symlinks=True)
        else:
            out = self._place(str(number))
        share = self.rng.random() ** 0.5
        child = self._start(NEW, out)
        killed = self._kill(child, share * self.seconds)
        left = [path.name for path in (*out.iterdir(), *self.temporary.iterdir())]
        visible = {n: d for n, d in self.command.state(out).items() if ".neuroprune/" not in n}
        visible = {n: d for n, d in visible.items() if ".preparing-" not in n}
        fault = self._fault(visible, old) if killed else ""
        self._finish(self._start(NEW, out))
        after = self.command.state(out)
        if not fault and any(after.get(name) != self.new[name] for name in self.new):
            fault = "the run after the kill gives something else"
        debris = [*(after.keys() - self.new.keys() - old.keys())]
        debris += [p.name for p in self.temporary.iterdir() if not p.name.startswith(PYTHONS)]
        debris += [path.name for path in out.iterdir() if path.name.startswith(".")]
        shutil.rmtree(out)
        record = {"moment": round(share, 3), "with_old_result": bool(old), "fault": fault}
        record |= {"left_by_the_kill": any(n.startswith(".") for n in left), "debris": debris}
        return record if killed else None

    def kills(self, number: int) -> Iterator[dict[str, Any]]:
        """So many kills."""
        done = tried = 0
        while done < number:
            tried += 1
            if record := self.kill_once(tried):
                done += 1
                yield record


def _train(folder: Path, data: str) -> None:
    """Checkpoints of a tiny model at two times, and results to plot of the same names."""
    flags = [*SMALL, *METHODS["target"].split(), "--save-dir", str(folder)]
    folder.mkdir()
    if finish(start([data, *flags], folder / "train.log")):
        raise SystemExit(f"kill_commands.py: error: training failed: {folder}/train.log")
    for name, heads in ((OLD, 9), (NEW, 7)):
        record = {"method": "dsp", "bleu": 30.0, "valid_bleu": 31.0, "heads_kept": heads}
        record |= {"heads_total": 18, "total_sparsity": 0.5}
        (folder / f"{name}.jsonl").write_text(json.dumps(record), encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--results", type=Path, help="JSON Lines file to add the result to")
    return parser.parse_args()


def main() -> None:
    """Kill, look, print a line for each command and add a line of JSON at the end."""
    arguments = _parse()
    torch.set_num_threads(1)
    os.environ["SOURCE_DATE_EPOCH"], rcParams["svg.hashsalt"] = "0", "same"  # for equal pictures
    result = {"command": shlex.join(["python", "benchmarks/kill_commands.py", *sys.argv[1:]])}
    bad = 0
    with tempfile.TemporaryDirectory(prefix="kill-commands-") as name:
        folder = Path(name)
        data = toy_corpus(folder / "corpus")
        _train(folder / "training", data)
        for command in arguments.commands:
            killing = Killing(command, folder, data, random.Random(arguments.seed))
            records = list(killing.kills(arguments.kills))
            faults = sum(bool(record["fault"] or record["debris"]) for record in records)
            left = sum(record["left_by_the_kill"] for record in records)
            summary = {"kills": len(records), "faults": faults, "kills_that_left_something": left}
            print(f"{command}: {json.dumps(summary)}", flush=True)
            result[command] = {**summary, "seconds": round(killing.seconds, 1), "all": records}
            bad += faults
    result |= {"hardware": hardware(), "git_commit": git_commit()}
    if arguments.results:
        append_line(arguments.results, result)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
