"""Results files (JSON Lines, written by evaluate.sh): reading them, and one table of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroprune_fairseq.errors import refuse

_COLUMNS = (
    ("model", lambda record: record["label"]),
    ("BLEU", lambda record: f"{record['bleu']:.2f}"),
    ("heads kept", lambda record: f"{record['heads_kept']} of {record['heads_total']}"),
    ("attention sparsity", lambda record: f"{record['attn_sparsity']:.3f}"),
    ("MLP sparsity", lambda record: f"{record['mlp_sparsity']:.3f}"),
    ("total sparsity", lambda record: f"{record['total_sparsity']:.3f}"),
    ("training s", lambda record: str(record.get("train_seconds", "-"))),
    ("translating s", lambda record: f"{record['generation_seconds']:.1f}"),
)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a results file, in its order.

    Args:
        path: one JSON object a line; blank lines are skipped.

    Raises:
        SystemExit: one line, when the file is missing, empty or damaged.
    """
    path = Path(path)
    if not path.is_file():
        refuse(f"{path}: no such results file; scripts/evaluate.sh writes one")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except json.JSONDecodeError:
            record = ()
        if record is not None and not (isinstance(record, dict) and "bleu" in record):
            refuse(f"{path}, line {number} is no record of scripts/evaluate.sh")
        if record:
            records.append(record)
    if not records:
        refuse(f"{path} is empty; scripts/evaluate.sh adds to it")
    return records


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, aligned for reading as plain text, one row a record."""
    rows = [[title for title, _ in _COLUMNS]]
    rows += [[cell(record) for _, cell in _COLUMNS] for record in records]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)
