"""Results files (JSON Lines, written by evaluate.sh): reading them, and one table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroprune_fairseq.errors import refuse
from neuroprune_fairseq.json_lines import read_json_lines

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
    records = []
    for number, record in read_json_lines(path, "results file", "scripts/evaluate.sh"):
        if not (isinstance(record, dict) and "bleu" in record):
            refuse(f"{path}, line {number} is no record of scripts/evaluate.sh")
        records.append(record)
    return records


def table_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What is shown of some records: a row of titles, then one for each record."""
    rows = [[cell(record) for _, cell in _COLUMNS] for record in records]
    return [[title for title, _ in _COLUMNS], *rows]


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, aligned for reading as plain text, one row a record."""
    rows = table_rows(records)
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)
