"""What training with NeuroPrune costs, and what --shrink saves.

Two trainings in one process take turns update by update, on the same batches, so what else the
machine does hits both alike. Every part prints medians and quartiles and writes JSON. Examples::

    python benchmarks/training.py penalties --output out.json  # against fairseq's own training
    python benchmarks/training.py shrink --heads 0.5 --neurons 0.5 --output out.json
    python benchmarks/training.py pruning --heads 16 --width 1024 --output out.json
    python benchmarks/training.py profile --output out.json    # where the time of an update goes

Random sentences and weights do: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from pathlib import Path

import torch
from pruned_models import prune_at_random_
from session import OURS, STOCK, Session
from turns import (
    WARM_UP,
    Result,
    add_common_options,
    check_common_options,
    compare,
    corpus,
    peak_bytes,
    spread,
    take_turns,
    write_result,
)

from neuroprune_fairseq.method.pruning import eliminate_redundant_heads


def _penalty_flags(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """fairseq's own training, and ours with both penalties."""
    ours = [*OURS, "--attn-penalty-weight", "5e-4", "--mlp-penalty-weight", "0.2"]
    return {"plain": STOCK, "penalties": [*ours, "--penalty-solver", arguments.solver]}


def _session(arguments: argparse.Namespace, data: Path, flags: list[str]) -> Session:
    torch.set_num_threads(arguments.threads)
    return Session(data, arguments.arch, arguments.max_tokens, arguments.device, flags)


def _peak_of(arguments: argparse.Namespace, data: Path, flags: list[str]) -> int:
    """Peak memory of one training in bytes, after a few updates; in a process of its own."""
    logging.disable()
    session = _session(arguments, data, flags)
    for _ in range(WARM_UP):
        session.update()
    return peak_bytes() if arguments.device == "cpu" else torch.cuda.max_memory_allocated()


def measure_penalties(arguments: argparse.Namespace, data: Path) -> Result:
    """Updates with the penalties against fairseq's own, and the memory of both."""
    trainings = _penalty_flags(arguments)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        jobs = {name: (arguments, data, flags) for name, flags in trainings.items()}
        peaks = {name: pool.apply(_peak_of, job) for name, job in jobs.items()}
    sessions = {name: _session(arguments, data, flags) for name, flags in trainings.items()}
    result = compare(take_turns(sessions, arguments.updates), "plain")
    for name, peak in peaks.items():
        result[name]["peak_bytes"] = peak
    return result


def measure_shrink(arguments: argparse.Namespace, data: Path) -> Result:
    """Updates of a model that was cut against those of the dense one."""
    flags = [*_penalty_flags(arguments)["penalties"], "--shrink"]
    sessions = {name: _session(arguments, data, flags) for name in ("dense", "shrunken")}
    shrunken = sessions["shrunken"]
    prune_at_random_(shrunken.model, arguments.heads, arguments.neurons)
    start = time.perf_counter()
    shrunken.task.shrink_()
    taken = time.perf_counter() - start
    result = compare(take_turns(sessions, arguments.updates), "dense")
    for name, session in sessions.items():
        parameters = session.model.parameters()
        result[name]["parameters"] = sum(parameter.numel() for parameter in parameters)
    return {**result, "seconds_to_cut": taken}


def measure_pruning(arguments: argparse.Namespace, data: Path) -> Result:
    """ELIM_REDUNDANT on a whole model, as at an epoch's end; no head is near enough to go."""
    flags = list(OURS)
    for stack in ("encoder", "decoder"):
        flags += [f"--{stack}-layers", "6", f"--{stack}-embed-dim", str(arguments.width)]
        flags += [f"--{stack}-attention-heads", str(arguments.heads)]
    model = _session(arguments, data, flags).model
    seconds = []
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        records = eliminate_redundant_heads(model, threshold=0.0)
        seconds.append(time.perf_counter() - start)
    return {"seconds": spread(seconds[1:]), "modules": len(records)}


def measure_profile(arguments: argparse.Namespace, data: Path) -> Result:
    """Shares of an update's time by operator, of the CPU or of the GPU."""
    session = _session(arguments, data, _penalty_flags(arguments)["penalties"])
    for _ in range(WARM_UP):
        session.update()
    on_gpu = arguments.device == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(arguments.updates):
            session.update()
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = {event.key: getattr(event, kind) for event in profiler.key_averages()}
    largest = sorted(times.items(), key=lambda item: -item[1])[:20]
    return {name: round(taken / sum(times.values()), 4) for name, taken in largest}


PARTS = {
    "penalties": measure_penalties,
    "shrink": measure_shrink,
    "pruning": measure_pruning,
    "profile": measure_profile,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, function in PARTS.items():
        part = parts.add_parser(name, help=function.__doc__.splitlines()[0])
        add_common_options(part)
        if name == "shrink":
            part.add_argument("--heads", type=float, default=0.5, help="share of heads kept")
            part.add_argument("--neurons", type=float, default=0.5, help="share of neurons kept")
        elif name == "pruning":
            part.add_argument("--heads", type=int, default=16, help="of every attention module")
            part.add_argument("--width", type=int, default=1024, help="embed_dim")
        part.add_argument("--solver", choices=["subgradient", "proximal"], default="subgradient")
    arguments = parser.parse_args()
    check_common_options(parser, arguments)
    return arguments


def main() -> None:
    """Run one part, write and print what came out."""
    arguments = _parse()
    logging.disable()  # fairseq's lines would break the progress bar
    with corpus(arguments) as data:
        result = PARTS[arguments.part](arguments, data)
    write_result(arguments, result)


if __name__ == "__main__":
    main()
