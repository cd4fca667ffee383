"""Results files (JSON Lines, written by evaluate.sh): reading, adding to, one table of them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.files.text import markdown_cell

# What a record's numbers must lie between.
Bounds = Mapping[str, tuple[float, float]]
BLEU, COUNT, SHARE = (0, 100), (0, 1e15), (0, 1)
_NUMBERS: Bounds = {
    **{"bleu": BLEU, "heads_kept": COUNT, "heads_total": COUNT, "generation_seconds": COUNT},
    **{"attn_sparsity": SHARE, "mlp_sparsity": SHARE, "total_sparsity": SHARE},
}

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


def _parse(line: str) -> Any:
    """A line's JSON; None where it is none, or text that no terminal or file could show."""
    try:
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode("utf-8")
        return record
    except (ValueError, RecursionError):
        return None


def number_fault(record: Mapping[str, Any], numbers: Bounds) -> str:
    """What is wrong with a record's numbers, "" if nothing.

    Args:
        record: a line of a results file.
        numbers: what it must have, each with its lowest and highest value.
    """
    for key, (low, high) in numbers.items():
        value = record.get(key)
        if key not in record:
            return f"lacks '{key}'"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"has no number in '{key}'"
        if not low <= value <= high:
            return f"has {str(value)[:20]} in '{key}', which is not within {low:g} and {high:g}"
    return ""


def heads_fault(record: Mapping[str, Any]) -> str:
    """What is wrong with the heads of a record whose numbers are right."""
    return "keeps more heads than there are" if record["heads_kept"] > record["heads_total"] else ""


def read_lines(
    path: str | Path, fault: Callable[[dict[str, Any]], str], writer: str
) -> list[dict[str, Any]]:
    """The records of a JSON Lines file, in its order; blank lines are skipped.

    Args:
        path: the file.
        fault: tells what is wrong with a record, "" if nothing.
        writer: the command that makes such files, for the message.

    Raises:
        SystemExit: one line that names the file and the line, when it is missing, empty or
            damaged.
    """
    if not Path(path).exists():
        refuse(f"{path}: no such results file; {writer} writes one")
    with refusing(f"{path} cannot be read as text", OSError, UnicodeDecodeError):
        text = Path(path).read_text(encoding="utf-8")
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        record = _parse(line)
        wrong = "is damaged: it is no JSON" if record is None else "is no JSON object"
        if isinstance(record, dict):
            wrong = fault(record)
        if wrong:
            refuse(f"{path}, line {number} {wrong}; {writer} writes such files")
        records.append(record)
    if not records:
        refuse(f"{path} is empty; {writer} adds to it")
    return records


def _fault(record: dict[str, Any]) -> str:
    modules = record.get("heads_kept_per_module")
    if not isinstance(record.get("label"), str):
        return "has no name in 'label'"
    if not isinstance(modules, dict) or not modules:
        return "has no modules in 'heads_kept_per_module'"
    return (
        number_fault(modules, dict.fromkeys(modules, COUNT))
        or number_fault(record, _NUMBERS)
        or heads_fault(record)
    )


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a results file of evaluate.sh, as :func:`read_lines`."""
    return read_lines(path, _fault, "scripts/evaluate.sh")


def check_results(path: Path) -> None:
    """Refuse a results file that cannot be added to, before the work that its line takes.

    Nothing is made or changed.

    Raises:
        SystemExit: one line, when it is another kind of file, or cannot be written.
    """
    if path.is_file() and path.stat().st_size:
        read_records(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with refusing(f"--results {path} cannot be written; name another file", OSError):
        if path.exists():
            path.open("ab").close()
        elif not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder to write to")


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a record to a JSON Lines file, all of it or nothing, safe beside other writers.

    Args:
        path: results file, made with its folder where missing.
        record: JSON-serialisable.

    Raises:
        SystemExit: one line, when it cannot be written.
    """
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    with refusing(f"{path} cannot be written; make room or name another file", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            try:
                if end and not _ends_with_line_feed(file):
                    line = b"\n" + line
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):  # no file to cut
                    file.truncate(end)
                raise


def _ends_with_line_feed(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def table_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What is shown of some records: a row of titles, then one for each record."""
    rows = [[cell(record) for _, cell in _COLUMNS] for record in records]
    return [[title for title, _ in _COLUMNS], *rows]


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, aligned for reading as plain text, one row a record."""
    rows = [list(map(markdown_cell, row)) for row in table_rows(records)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)
