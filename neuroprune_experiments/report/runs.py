"""The course of a training run, from its neuroprune.jsonl and fairseq's train.log."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroprune_experiments.records import read_epochs
from neuroprune_fairseq.files import run_log
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.files.text import printable

LOG_NAME = "train.log"
SPARSITIES = ("attn_sparsity", "mlp_sparsity", "total_sparsity")

# "... | INFO | valid | epoch 006 | valid on 'valid' subset | loss 4.426 | ...", or the same as
# JSON with --log-format json.
_LINE = re.compile(r"\| INFO \| (train|valid) \| (\{.*\}|epoch \d+ .*)$", re.MULTILINE)

# By module and head: the epoch in which it went, and the head that replaced it (or None).
Replaced = dict[str, dict[int, tuple[int, int | None]]]


@dataclass(frozen=True)
class Epoch:
    """One epoch, as it ended; None where nobody noted it."""

    number: int
    num_updates: int | None = None
    heads_kept: int | None = None
    heads_removed: int = 0  # at its end
    attn_sparsity: float | None = None
    mlp_sparsity: float | None = None
    total_sparsity: float | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    valid_bleu: float | None = None


@dataclass(frozen=True)
class Run:
    """One training."""

    label: str
    folder: Path
    epochs: tuple[Epoch, ...]
    replaced: Replaced

    @property
    def pruning_epochs(self) -> list[int]:
        """At whose end heads went."""
        return [epoch.number for epoch in self.epochs if epoch.heads_removed]

    def values(self, name: str) -> tuple[list[int], list[float]]:
        """Epochs and values of a field of :class:`Epoch`, where there are any."""
        found = {epoch.number: getattr(epoch, name) for epoch in self.epochs}
        found = {number: value for number, value in found.items() if value is not None}
        return [*found.keys()], [*found.values()]


def _line_values(split: str, text: str) -> tuple[int, dict[str, float]]:
    """The epoch and the numbers of one line of fairseq's statistics."""
    if text.startswith("{"):
        stats = {name.removeprefix(f"{split}_"): v for name, v in json.loads(text).items()}
    else:
        stats = dict(part.split(" ", 1) for part in text.split(" | ") if " " in part)
    names = [name for name in ("loss", "bleu") if name in stats]
    return int(stats["epoch"]), {f"{split}_{name}": float(stats[name]) for name in names}


def read_train_log(path: Path) -> dict[int, dict[str, float]]:
    """What fairseq logged at the end of every epoch; of a repeated epoch the last.

    Args:
        path: fairseq-train's output, may be missing.

    Returns:
        By epoch: train_loss, valid_loss, valid_bleu, as far as they are there.
    """
    if not path.is_file():
        return {}
    epochs: dict[int, dict[str, float]] = {}
    for split, text in _LINE.findall(path.read_text(encoding="utf-8", errors="replace")):
        try:
            number, values = _line_values(split, text)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue  # a line of somebody else's that looks alike, or a torn one
        epochs.setdefault(number, {}).update(values)
    return epochs


def _replaced(records: list[dict[str, Any]]) -> Replaced:
    found: Replaced = {}
    for record in records:
        for module in record.get("modules", []):
            for head, into in module["replaced"].items():
                heads = found.setdefault(module["module"], {})
                heads[int(head)] = (record["epoch"], into)
    return found


def _heads_removed(records: list[dict[str, Any]]) -> dict[int, int]:
    """By epoch, how many heads went: what is gone since the epoch before.

    The first epoch has none before; what it replaced is what went.
    """
    removed, before = {}, None
    for record in records:
        kept = record.get("heads_kept", before)
        replaced = sum(len(module["replaced"]) for module in record.get("modules", []))
        known = before is not None and "heads_kept" in record
        removed[record["epoch"]] = max(0, before - kept) if known else replaced
        before = kept
    return removed


def read_run(folder: Path, label: str, num_updates: int | None = None) -> Run:
    """Read what a save-dir tells about its training.

    Args:
        folder: a --save-dir with neuroprune.jsonl, train.log or both.
        label: how the report calls the run.
        num_updates: only up to here, for a checkpoint of the middle; None for all.

    Raises:
        SystemExit: one line, when the folder has neither or the first is damaged.
    """
    path = folder / run_log.FILE_NAME
    records = read_epochs(path) if path.exists() else []
    logged = read_train_log(folder / LOG_NAME)
    if not records and not logged:
        refuse(f"{folder} holds no {run_log.FILE_NAME} and no {LOG_NAME} of fairseq-train")
    if num_updates is not None:
        records = [r for r in records if r.get("num_updates", 0) <= num_updates]
    removed, by_epoch = _heads_removed(records), {record["epoch"]: record for record in records}
    names = ("num_updates", "heads_kept", *SPARSITIES)
    epochs = []
    for number in sorted({*by_epoch, *logged}):
        values = {n: v for n, v in by_epoch.get(number, {}).items() if n in names}
        values |= {**logged.get(number, {}), "heads_removed": removed.get(number, 0)}
        epochs.append(Epoch(number, **values))
    return Run(printable(label), folder, tuple(epochs), _replaced(records))
