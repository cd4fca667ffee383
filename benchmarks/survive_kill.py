"""Whether a training that is killed with SIGKILL and started again ends bit-identical.

Trains once without a kill, then again and again with kills: at random moments, and in the middle
of an update, of pruning, of writing neuroprune.jsonl, of saving and of copying a checkpoint.
Examples::

    python benchmarks/survive_kill.py --kills 20 --method neuroprune
    python benchmarks/survive_kill.py --kills 4 --method dsp -- --bf16
    python benchmarks/survive_kill.py --kills 0 --events pruned:2 copying:3 --data data-bin/toy

What is compared: every checkpoint's weights; of the last one also the optimizer's state, the
state of the task, of the EMA and of the iterator, and the meters of the epoch; neuroprune.jsonl;
and fairseq's epoch lines, but for what measures time. fairseq prints an epoch's line after the
epoch's checkpoint, so a kill in between loses the line; those are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from training_processes import EVENTS, Event, finish, start

from neuroprune_experiments.provenance import git_commit, hardware
from neuroprune_fairseq.files.results import append_line

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    *("--user-dir", str(ROOT / "neuroprune_fairseq"), "--arch", "transformer_18x6_tiny"),
    *("--encoder-layers", "1", "--decoder-layers", "1", "--share-all-embeddings", "--cpu"),
    *("--optimizer", "adam", "--lr", "2e-3", "--weight-decay", "1e-4", "--dropout", "0.1"),
    *("--lr-scheduler", "inverse_sqrt", "--warmup-updates", "10", "--label-smoothing", "0.1"),
    *("--max-tokens", "250", "--max-epoch", "3", "--save-interval-updates", "4"),
    *("--keep-interval-updates", "2", "--num-workers", "0", "--log-interval", "3"),
    *("--no-progress-bar", "--log-format", "json", "--task", "translation_neuroprune"),
]
NEUROPRUNE = "--criterion label_smoothed_cross_entropy_neuroprune "
PRUNER = "--criterion label_smoothed_cross_entropy --pruner "
METHODS = {
    "neuroprune": NEUROPRUNE + "--attn-penalty-weight 0.005 --mlp-penalty-weight 0.05"
    " --head-distance-threshold 0.31",
    "target": NEUROPRUNE + "--penalty-solver proximal --attn-penalty-weight 0.01"
    " --target-heads 7 --target-sparsity 0.6 --target-interval 3",
    "dsp": PRUNER + "dsp --heads-to-keep 6 --cooldown-updates 25",
    "voita": PRUNER + "voita --l0-penalty-weight 0.5",
    "michel": PRUNER + "michel --heads-to-keep 6 --prune-updates 25 --prune-steps 5"
    " --importance-recompute",
}
BEGUN = "Start iterating over samples"
TIMES = ("TimeMeter", "StopwatchMeter")
LINE_TIMES = ("wps", "ups", "wall", "train_wall", "gb_free")


def _differences(ours: Any, theirs: Any, where: str) -> list[str]:
    """The places at which two nested values differ by as much as a bit."""
    if isinstance(theirs, torch.Tensor):
        equal = isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)
        return [] if equal else [where]
    if type(ours) is not type(theirs):
        return [where]
    if isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return [f"{where}: {sorted(map(str, ours.keys() ^ theirs.keys()))}"]
        pairs = [(name, ours[name], theirs[name]) for name in theirs]
    elif isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        pairs = list(zip(range(len(theirs)), ours, theirs))
    else:
        return [] if ours == theirs else [where]
    return [found for name, a, b in pairs for found in _differences(a, b, f"{where}.{name}")]


def _last_state(state: dict[str, Any]) -> dict[str, Any]:
    """What must be equal of a run's last checkpoint; times are left out."""
    extra = {k: v for k, v in state["extra_state"].items() if k != "previous_training_time"}
    meters = extra.pop("metrics")["train"]
    return {
        "optimizer": state["last_optimizer_state"],
        "lr_scheduler": state["optimizer_history"][-1],
        "extra_state": extra,
        "meters": {name: state for _, name, kind, state in meters if kind not in TIMES},
    }


def _epoch_lines(folder: Path) -> dict[str, dict[str, Any]]:
    """fairseq's lines about whole epochs without times; of an epoch trained twice the last."""
    found = {}
    for line in (folder / "train.log").read_text(encoding="utf-8").splitlines():
        for name in ("train", "valid"):
            _, is_one, text = line.partition(f"INFO | {name} | {{")
            if is_one:
                entries = json.loads("{" + text)
                times = {f"{name}_{time_}" for time_ in LINE_TIMES}
                values = {key: entries[key] for key in entries.keys() - times}
                found[f"{name} {entries[f'{name}_num_updates']}"] = values
    return found


def compare(run: Path, whole: Path) -> tuple[list[str], int]:
    """What differs between two runs, and how many epoch lines of fairseq's log are lost."""
    names = sorted(path.name for path in whole.glob("checkpoint*.pt"))
    found = _differences(sorted(path.name for path in run.glob("checkpoint*")), names, "files")
    for name in names if not found else ():
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (run, whole))
        found += _differences(ours["model"], theirs["model"], name)
        if name == "checkpoint_last.pt":
            found += _differences(_last_state(ours), _last_state(theirs), name)
    records = [(folder / "neuroprune.jsonl").read_bytes() for folder in (run, whole)]
    found += _differences(*records, "neuroprune.jsonl")
    ours, theirs = _epoch_lines(run), _epoch_lines(whole)
    found += _differences(ours, {name: theirs.get(name) for name in ours}, "log")
    return found, len(theirs.keys() - ours.keys())


def _seconds_computed(process: int) -> float:
    """The processor time of a process; unlike the clock's it does not depend on what else runs."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Survival:
    """One command, run whole and run with kills, in folders of their own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.folder = command, folder
        self.records: list[dict[str, Any]] = []
        self.lines_lost = 0
        self.whole = folder / "whole"
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        if finish(self._start(self.whole)):
            raise SystemExit(f"survive_kill.py: error: training failed: {self.whole}/train.log")
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.seconds = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime

    def _start(self, run: Path, event: Event | None = None) -> int:
        run.mkdir(exist_ok=True)
        return start([*self.command, "--save-dir", str(run)], run / "train.log", event)

    def _kill_after(self, run: Path, moment: float) -> int | None:
        """Kill a training some seconds of computing after its first batch.

        Returns:
            Its exit status where it ended before that.
        """
        run.mkdir(exist_ok=True)
        log = run / "train.log"
        log.touch()
        earlier = log.stat().st_size
        child, begin = self._start(run), None
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if begin is None and BEGUN in log.read_text(encoding="utf-8")[earlier:]:
                begin = _seconds_computed(child)
            if begin is not None and _seconds_computed(child) - begin >= moment:
                os.kill(child, signal.SIGKILL)
                finish(child)
                return None
            time.sleep(0.002)

    def _judge(self, run: Path, kills: list[dict[str, Any]], status: int) -> None:
        if status:
            found, lost = [f"exit status {status}"], 0
        else:
            found, lost = compare(run, self.whole)
        for kill in kills:
            self.records.append({**kill, "run": run.name, "same": not found})
            print(f"kill {len(self.records)}: {json.dumps(self.records[-1])}", flush=True)
        if found:
            print(f"  differs: {', '.join(found[:8])} ({len(found)})", flush=True)
        self.lines_lost += lost
        if lost:
            print(f"  {lost} epoch lines of fairseq's log lost", flush=True)

    def at_event(self, name: str, number: int) -> None:
        """Kill a run at the number-th time of an event, then let it end."""
        run = self.folder / f"{name.replace(' ', '-')}-{number}"
        status = finish(self._start(run, (name, number)))
        if status != -signal.SIGKILL:
            raise SystemExit(f"survive_kill.py: error: --events {name}:{number} never came")
        self._judge(run, [{"event": f"{name}:{number}"}], finish(self._start(run)))

    def at_random(self, kills: int, per_run: int, rng: random.Random) -> None:
        """Kill runs at random moments, each several times, until there were so many kills."""
        done = number = 0
        while done < kills:  # a run may end before its first kill: then another one is made
            run, killed = self.folder / f"random-{number}", []
            status: int | None = None
            while status is None:
                if len(killed) == min(per_run, kills - done):
                    status = finish(self._start(run))
                    continue
                moment = rng.uniform(0, 2 * self.seconds / (per_run + 1))
                status = self._kill_after(run, moment)
                if status is None:
                    last = (run / "train.log").read_text(encoding="utf-8").splitlines()[-1]
                    killed.append({"moment": round(moment, 3), "after": last[:80]})
            self._judge(run, killed, status)
            done, number = done + len(killed), number + 1


def _event(text: str) -> tuple[str, int]:
    name, _, number = text.partition(":")
    if name not in EVENTS or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: it must be NAME:N, {', '.join(EVENTS)}")
    return name, int(number)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="neuroprune")
    parser.add_argument("--kills", type=int, default=20, help="kills at random moments")
    parser.add_argument("--kills-per-run", type=int, default=4)
    parser.add_argument(
        "--events",
        type=_event,
        nargs="*",
        metavar="NAME:N",
        default=[(name, n) for name in ("pruning", "pruned", "saving", "copying") for n in (1, 3)],
        help="kills at the N-th time of an event, one run each: " + ", ".join(EVENTS),
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--data", help="prepared corpus (default: a toy corpus is made)")
    parser.add_argument("--folder", help="keep the runs in this new folder")
    parser.add_argument("--results", type=Path, help="JSON Lines file to add the result to")
    parser.add_argument("flags", nargs="*", help="further flags of fairseq-train, after --")
    return parser.parse_args()


def toy_corpus(folder: Path) -> str:
    """Make a corpus of 60 sentence pairs in a new folder; returns its path."""
    sizes = ("--vocab-size", 100, "--train-pairs", 60, "--valid-pairs", 10, "--test-pairs", 10)
    command = [sys.executable, ROOT / "data-prep" / "toy.py", "--out", folder, *sizes]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def main() -> None:
    """Kill, compare, print a line for each kill and JSON at the end."""
    arguments = _parse()
    with tempfile.TemporaryDirectory(prefix="survive-kill-") as scratch:
        folder = Path(arguments.folder or scratch)
        folder.mkdir(exist_ok=not arguments.folder)
        data = arguments.data or toy_corpus(folder / "corpus")
        torch.set_num_threads(1)
        command = [data, *SMALL, *METHODS[arguments.method].split(), *arguments.flags]
        survival = Survival(command, folder)
        for event in arguments.events:
            survival.at_event(*event)
        survival.at_random(arguments.kills, arguments.kills_per_run, random.Random(arguments.seed))
    same = sum(record["same"] for record in survival.records)
    result = {"command": shlex.join(["python", "benchmarks/survive_kill.py", *sys.argv[1:]])}
    result |= {"method": arguments.method, "flags": arguments.flags, "same": same}
    result |= {"kills": len(survival.records), "epoch_lines_lost": survival.lines_lost}
    result |= {"cpu_seconds_of_a_run": round(survival.seconds, 1)}
    result |= {"hardware": hardware(), "git_commit": git_commit(), "all": survival.records}
    print(json.dumps(result))
    if arguments.results:
        append_line(arguments.results, result)
    sys.exit(same < len(survival.records))


if __name__ == "__main__":
    main()
