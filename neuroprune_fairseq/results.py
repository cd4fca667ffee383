"""Results files (JSON Lines, written by evaluate.sh): reading them, and one table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neuroprune_fairseq.errors import refuse
from neuroprune_fairseq.json_lines import read_json_lines

_NONE = "-"  # where a record does not say


def _number(key: str, form: str = "") -> Callable[[dict[str, Any]], str]:
    def cell(record: dict[str, Any]) -> str:
        value = record.get(key)
        return format(value, form) if isinstance(value, (int, float)) else _NONE

    return cell


def _heads(record: dict[str, Any]) -> str:
    kept, total = _number("heads_kept")(record), _number("heads_total")(record)
    return f"{kept} of {total}" if kept != _NONE else _NONE


_COLUMNS = (
    ("model", lambda record: str(record.get("label", _NONE))),
    ("BLEU", _number("bleu", ".2f")),
    ("heads kept", _heads),
    ("attention sparsity", _number("attn_sparsity", ".3f")),
    ("MLP sparsity", _number("mlp_sparsity", ".3f")),
    ("total sparsity", _number("total_sparsity", ".3f")),
    ("training s", _number("train_seconds")),
    ("translating s", _number("generation_seconds", ".1f")),
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
