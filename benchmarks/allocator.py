"""What the settings of scripts/allocator.sh do for training on a CPU.

An allocator's settings are read when a process starts, so processes take turns, not updates::

    python benchmarks/allocator.py --output out.json
    python benchmarks/allocator.py --preload /usr/lib/x86_64-linux-gnu/libjemalloc.so.2 \
        --output out.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from session import STOCK, Session
from tqdm import tqdm
from turns import (
    add_common_options,
    check_common_options,
    compare,
    corpus,
    peak_bytes,
    take_turns,
    write_result,
)

SETTINGS = Path(__file__).resolve().parent.parent / "scripts" / "allocator.sh"
JEMALLOC = {"MALLOC_CONF": "thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1"}
SETS = ("GLIBC_TUNABLES", "LD_PRELOAD", *JEMALLOC)


def ways_to_allocate(preload: str | None) -> dict[str, dict[str, str]]:
    """Environments to compare: of glibc as it comes, as the scripts set it, of another one."""
    bare = {name: value for name, value in os.environ.items() if name not in SETS}
    command = ["bash", "-c", f"source '{SETTINGS}' && printf %s \"$GLIBC_TUNABLES\""]
    tunables = subprocess.run(command, env=bare, capture_output=True, check=True, text=True).stdout
    ways = {"as it comes": bare, "ours": {**bare, "GLIBC_TUNABLES": tunables}}
    if preload:
        ways["preloaded"] = {**bare, **JEMALLOC, "LD_PRELOAD": preload}
    return ways


def train_a_little(arguments: argparse.Namespace) -> None:
    """One process's work: print the median seconds of an update, and the peak memory, as JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(arguments.threads)
    session = Session(Path(arguments.data), arguments.arch, arguments.max_tokens, "cpu", STOCK)
    seconds = take_turns({"": session}, arguments.updates)[""]
    found = {"seconds": statistics.median(seconds), "peak_bytes": peak_bytes()}
    print(json.dumps(found), file=answers)


def main() -> None:
    """Let the processes take turns, write and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common_options(parser)
    parser.add_argument("--preload", help="another allocator's library, to compare with")
    parser.add_argument("--one-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable()
    if arguments.one_process:
        train_a_little(arguments)
        return
    check_common_options(parser, arguments)
    with corpus(arguments) as data:
        command = [sys.executable, __file__, *sys.argv[1:], "--one-process", "--data", str(data)]
        ways, answers = ways_to_allocate(arguments.preload), {}
        for number in tqdm(range(arguments.repeats), desc="rounds"):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                output = subprocess.run(
                    command, env=ways[name], capture_output=True, check=True, text=True
                ).stdout
                answers.setdefault(name, []).append(json.loads(output))
    seconds = {name: [answer["seconds"] for answer in answers[name]] for name in ways}
    result = compare(seconds, "as it comes")
    for name, found in answers.items():
        result[name]["peak_bytes"] = max(answer["peak_bytes"] for answer in found)
    write_result(arguments, result)


if __name__ == "__main__":
    main()
