"""The files that a report is made of: checkpoints, run folders, results."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroprune_experiments.frontier.records import record_fault
from neuroprune_experiments.report.facts import ModelFacts, take_facts
from neuroprune_experiments.report.runs import Run, read_run
from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.files.models import model_of, settings_of
from neuroprune_fairseq.files.results import COUNT, number_fault, read_records
from neuroprune_fairseq.files.text import printable
from neuroprune_fairseq.method.pruning import zero_small_weights_

DENSE = "dense"
_TARGETS = ("target_heads", "target_attn_sparsity", "target_mlp_sparsity", "target_sparsity")
_PENALTIES = ("attn_penalty_weight", "mlp_penalty_weight")


def method_of(settings: Namespace) -> str:
    """The method that trained a checkpoint, by the names of ``neuroprune-frontier``.

    Args:
        settings: a checkpoint's model settings, among which fairseq keeps all flags.

    Returns:
        One of the frontier's methods, or "dense" where nothing was pruned.
    """
    flags = vars(settings)
    task, criterion = str(flags.get("task")), str(flags.get("criterion"))
    if task == "translation_dsp":
        mode = str(flags.get("dsp_mode", "joint"))
        return "dsp" if mode == "joint" else f"dsp-{mode}"
    if task in ("translation_voita", "translation_michel"):
        return task.removeprefix("translation_")
    if criterion == "label_smoothed_cross_entropy_l1":
        return "l1"
    if any(flags.get(name) is not None for name in _TARGETS):
        return "neuroprune-target"
    penalised = any(float(flags.get(name) or 0) for name in _PENALTIES)
    if penalised or flags.get("head_distance_threshold") is not None:
        proximal = penalised and flags.get("penalty_solver") == "proximal"
        return "neuroprune-proximal" if proximal else "neuroprune"
    return DENSE


def _num_updates(state: dict[str, Any]) -> int | None:
    history = state.get("optimizer_history") or [{}]
    return history[-1].get("num_updates")


def read_model(path: Path, label: str, tolerance: float) -> tuple[ModelFacts, Run | None]:
    """Read a checkpoint, and the run log beside it where there is one.

    Args:
        path: a checkpoint of fairseq's transformer, compact or not.
        label: how the report calls it.
        tolerance: prunable weights with |w| < tolerance count as zero.

    Returns:
        The facts of the model, and its run up to there.
    """
    state = read_checkpoint(path)
    num_updates, settings = _num_updates(state), settings_of(state, str(path))
    run = None
    if (path.parent / run_log.FILE_NAME).exists():
        run = read_run(path.parent, label, num_updates)
    model = model_of(state, str(path))
    zero_small_weights_(model, tolerance)
    with refusing(f"{path}: weights and settings do not fit; take a checkpoint that is whole"):
        return take_facts(model, settings, label, method_of(settings), num_updates), run


def labels_for(paths: Sequence[Path], chosen: Sequence[str]) -> list[str]:
    """What the report calls its checkpoints.

    Args:
        paths: the checkpoints.
        chosen: by the user, for all or for none.

    Returns:
        The folder's name for fairseq's checkpoint*.pt, the file's own otherwise; both
        where that is not enough to tell them apart, and else the path.

    Raises:
        SystemExit: one line, for a checkpoint that is named twice, and for too few, too
            many or equal labels.
    """
    chosen = list(map(printable, chosen))
    paths = [path.resolve() for path in paths]
    if path := _repeated(paths):
        refuse(f"{path} is named twice")
    if chosen and len(chosen) != len(paths):
        refuse(f"--labels: {len(chosen)} for {len(paths)} checkpoints; name each of them")
    if label := _repeated(chosen):
        refuse(f"--labels: '{label}' stands for more than one checkpoint")
    if chosen:
        return list(chosen)
    paths = [Path(printable(str(path))) for path in paths]
    short = [p.parent.name if p.stem.startswith("checkpoint") else p.stem for p in paths]
    for names in (short, [f"{path.parent.name}/{path.stem}" for path in paths]):
        if not _repeated(names):
            return names
    return [str(path) for path in paths]


def _repeated(values: Sequence[Any]) -> Any:
    """A value that is there more than once, None without one."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


@dataclass(frozen=True)
class Results:
    """What is in some results files."""

    evaluations: list[dict[str, Any]] = field(default_factory=list)  # of evaluate.sh
    frontier: list[dict[str, Any]] = field(default_factory=list)  # with method and valid_bleu
    speeds: list[dict[str, Any]] = field(default_factory=list)  # of benchmarks/inference.py


_SPEED_KEYS = "available_cores batch_size beam tokens_per_second speed_up peak_bytes".split()


def _speed_fault(result: dict[str, Any]) -> str:
    """What is wrong with a benchmark's result, "" if nothing."""
    rows = result["best"]
    if not isinstance(rows, list) or not rows:
        return "has no rows in 'best'"
    for key in ("settings", "hardware"):
        if not isinstance(result.get(key, {}), dict):
            return f"has no settings in '{key}'"
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("contender"), str):
            return f"lacks 'contender' in row {number} of 'best'"
        numbers = {**row, "peak_bytes": row.get("peak_bytes") or 0}
        if fault := number_fault(numbers, dict.fromkeys(_SPEED_KEYS, COUNT)):
            return f"{fault} in row {number} of 'best'"
    return ""


def _as_benchmark(path: Path) -> dict[str, Any] | None:
    """The content of a result of benchmarks/inference.py; None if it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "best" in value else None


def read_results(paths: Sequence[Path]) -> Results:
    """Read results files of any of the three kinds, told apart by what they hold.

    Raises:
        SystemExit: one line, when one is missing, damaged or of no such kind.
    """
    results = Results()
    for path in paths:
        benchmark = _as_benchmark(path)
        if benchmark is not None:
            if fault := _speed_fault(benchmark):
                refuse(f"{path} {fault}")
            results.speeds.append(benchmark)
            continue
        records = read_records(path)
        results.evaluations.extend(records)
        results.frontier.extend(record for record in records if not record_fault(record))
    return results
