"""fairseq-train in processes that can be killed anywhere, and that cost no start.

The imports are made once; every training is a fork of that. As a program it runs jobs one after
the other and prints the exit statuses of each (negative: the signal that killed it)::

    python benchmarks/training_processes.py jobs.json

where a job is ``{"arguments": [...], "log": FILE, "workers": 2, "events": [["saving", 1], null]}``;
``workers`` and ``events`` (one for each worker, see EVENTS) may be left out.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq_cli import train

from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.method import head_selection, pruning
from neuroprune_fairseq.plugin import task
from neuroprune_fairseq.pruners import gated, neuroprune

Event = Sequence[Any]  # name and number, as in ("saving", 2)
LOG_FORMAT = "%(levelname)s | %(name)s | %(message)s"


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_call(owner: Any, name: str, number: int, act: Callable[..., Any]) -> None:
    """Replace the number-th call (from 1) of owner.name by ``act(original, *arguments)``."""
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            return act(original, *arguments, **settings)
        return original(*arguments, **settings)

    setattr(owner, name, counted)


def _die_after(original: Callable[..., Any], *arguments: Any, **settings: Any) -> None:
    original(*arguments, **settings)
    _die()


def _die_half_written(original: Callable[..., Any], content: Any, file: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.write(buffer.getbuffer()[: buffer.tell() // 2])
    file.flush()
    _die()


def _die_half_copied(original: Callable[..., Any], source: str, to: str, **_: Any) -> None:
    content = Path(source).read_bytes()
    Path(to).write_bytes(content[: len(content) // 2])
    _die()


def _in_an_edit(number: int) -> None:
    for owner, name in (
        (pruning, "remove_heads_"),
        (head_selection, "remove_heads_"),
        (gated, "fold_"),
    ):
        _at_call(owner, name, number, _die_after)


def _decide_otherwise(_: int) -> None:
    """Not a kill: this worker would leave one head in every module."""
    original = neuroprune.eliminate_redundant_heads
    neuroprune.eliminate_redundant_heads = lambda model, _, merge: original(model, 1e9, merge)


# Where a training can be killed, each at its number-th time.
EVENTS: dict[str, Callable[[int], None]] = {
    "updating": lambda n: _at_call(task.PruningTask, "optimizer_step", n, _die),
    "pruning": _in_an_edit,
    "logging": lambda n: _at_call(run_log.os, "replace", n, _die),
    "pruned": lambda n: _at_call(run_log, "write_epoch", n, _die_after),
    "saving": lambda n: _at_call(torch, "save", n, _die_half_written),
    "copying": lambda n: _at_call(checkpoint_utils.PathManager, "copy", n, _die_half_copied),
    "saved": lambda n: _at_call(checkpoint_utils, "save_checkpoint", n, _die_after),
    "deciding otherwise": _decide_otherwise,
}


def _train(arguments: Sequence[str], log: str | Path, event: Event | None) -> int:
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(stream=sys.stdout, format=LOG_FORMAT, level=logging.INFO, force=True)
    if event:
        EVENTS[event[0]](event[1])
    sys.argv = ["fairseq-train", *map(str, arguments)]
    try:
        train.cli_main()
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


def start(
    arguments: Sequence[str],
    log: str | Path,
    event: Event | None = None,
    environment: dict[str, str] | None = None,
) -> int:
    """Start a training.

    Args:
        arguments: those of fairseq-train.
        log: file to which its output is added.
        event: what becomes of it, None for nothing.
        environment: variables to set.

    Returns:
        Its process id.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(environment or {})
        status = _train(arguments, log, event)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(child: int) -> int:
    """Wait for a training: its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_workers(
    arguments: Sequence[str], log: str | Path, number: int, events: Sequence[Event | None] = ()
) -> list[int]:
    """Start several workers on one training, on the CPU, as torchrun starts them."""
    flags = ["--distributed-world-size", str(number), "--distributed-rank=-1"]
    flags += ["--distributed-init-method", "env://", "--distributed-no-spawn"]
    flags += ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    common = {"WORLD_SIZE": str(number), "MASTER_ADDR": "localhost"}
    common["MASTER_PORT"] = str(_free_port())
    events = [*events, *[None] * (number - len(events))]
    return [
        start([*arguments, *flags], log, event, {**common, "RANK": str(rank)})
        for rank, event in enumerate(events)
    ]


def main() -> None:
    """Run the jobs of a file."""
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        number, events = job.get("workers", 1), job.get("events", [None])
        if number == 1:
            children = [start(job["arguments"], job["log"], events[0])]
        else:
            children = start_workers(job["arguments"], job["log"], number, events)
        print(json.dumps([finish(child) for child in children]), flush=True)


if __name__ == "__main__":
    main()
