"""neuroprune.jsonl in the save-dir: one JSON line per finished epoch of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from neuroprune_fairseq.files.errors import refusing

FILE_NAME = "neuroprune.jsonl"


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("epoch"), int)
    return record if whole else None


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The records of a run so far; lines that are damaged are left out.

    Args:
        path: a neuroprune.jsonl, may be missing.
    """
    if not path.exists():
        return []
    with refusing(f"{path} cannot be read; move it away", OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
    return [record for record in map(_parse, text.splitlines()) if record is not None]


def write_epoch(path: Path, record: dict[str, Any]) -> None:
    """Add the record of an epoch; what a resumed run trains again is replaced.

    Written to a temporary name and renamed, so a reader never sees half a line.

    Args:
        path: the file; its folder must exist.
        record: JSON-serialisable, with the key ``epoch``.

    Raises:
        SystemExit: one line, when it cannot be written.
    """
    earlier = [old for old in read_epochs(path) if old["epoch"] < record["epoch"]]
    temporary = path.with_name(f"{path.name}.tmp")
    lines = (json.dumps(entry) for entry in [*earlier, record])
    with refusing(f"{path} cannot be written; make room and start again", OSError):
        try:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
