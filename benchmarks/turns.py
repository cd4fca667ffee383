"""Letting trainings take turns, comparing them pair by pair, and writing down what came out."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from session import Session, random_corpus
from tqdm import tqdm

from neuroprune_experiments.provenance import git_commit, hardware
from neuroprune_fairseq.files.atomic import replacing

WARM_UP = 3  # updates that are not counted
Result = dict[str, Any]


def spread(values: Sequence[float]) -> Result:
    """Median, quartiles and number of some measurements."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high], "number": len(values)}


def take_turns(sessions: dict[str, Session], updates: int) -> dict[str, list[float]]:
    """Seconds of every update of every session; who begins alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for number in tqdm(range(WARM_UP + updates), desc="updates"):
        for name in list(sessions)[:: 1 if number % 2 else -1]:
            taken = sessions[name].update()
            if number >= WARM_UP:
                seconds[name].append(taken)
    return seconds


def compare(seconds: dict[str, list[float]], baseline: str) -> Result:
    """Everyone's seconds, and their ratio to the baseline's, pair by pair."""
    found: Result = {}
    for name, taken in seconds.items():
        ratios = [mine / its for mine, its in zip(taken, seconds[baseline])]
        found[name] = {
            "seconds_per_update": spread(taken),
            "ratio": spread(ratios),
            "ratio_of_totals": sum(taken) / sum(seconds[baseline]),
        }
    return found


@contextmanager
def corpus(arguments: argparse.Namespace) -> Iterator[Path]:
    """The user's, or one of random sentences that is long enough."""
    if arguments.data:
        yield Path(arguments.data)
        return
    with tempfile.TemporaryDirectory(prefix="neuroprune-benchmark-") as folder:
        tokens = (WARM_UP + arguments.updates + 2) * arguments.max_tokens
        yield random_corpus(Path(folder), arguments.vocabulary, tokens)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every part takes."""
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("--arch", default="transformer_18x6_small")
    parser.add_argument("--data", help="prepared corpus (default: random sentences)")
    parser.add_argument("--vocabulary", type=int, default=4000, help="its size, without --data")
    parser.add_argument("--max-tokens", type=int, default=4096, help="size of a batch")
    parser.add_argument("--updates", type=int, default=30, help="how many are counted")
    parser.add_argument("--repeats", type=int, default=5, help="how often what is no update is run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def check_common_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything runs."""
    out = Path(arguments.output)
    if out.exists() and not arguments.overwrite:
        parser.error(f"--output {out} exists; --overwrite replaces it")
    if not out.parent.is_dir():
        parser.error(f"--output {out}: {out.parent} is no folder")
    for name, least in (("updates", 2), ("repeats", 2), ("threads", 1), ("max_tokens", 64)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")


def write_result(arguments: argparse.Namespace, result: Result) -> None:
    """Write the JSON file, under a temporary name first, and print what it holds."""
    facts = {"settings": vars(arguments), "hardware": hardware(), "git_commit": git_commit()}
    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps({**facts, **result}, indent=1) + "\n", encoding="utf-8")
    for name, found in result.items():
        print(_line(name, found))


def _line(name: str, found: Any) -> str:
    if not (isinstance(found, dict) and "ratio" in found):
        return f"{name}: {json.dumps(found)}"
    ratio, seconds = found["ratio"], found["seconds_per_update"]["median"]
    low, high = ratio["quartiles"]
    line = f"{name:12} {seconds:8.3f} s an update, ratio {ratio['median']:.3f} (quartiles "
    line += f"{low:.3f} to {high:.3f}, {ratio['number']} pairs), of totals "
    line += f"{found['ratio_of_totals']:.3f}"
    return line + (f", {found['peak_bytes'] / 1e6:.0f} MB" if "peak_bytes" in found else "")
