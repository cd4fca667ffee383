"""JSON Lines, the format of results: reading, adding to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from neuroprune_fairseq.files.errors import refuse, refusing


def _parse(line: str) -> Any:
    """A line's JSON; None where it is none, or text that no terminal or file could show."""
    try:
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode("utf-8")
        return record
    except (ValueError, RecursionError):
        return None


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


def check_writable(path: Path) -> None:
    """Refuse a results file that cannot be added to; nothing is made or changed.

    Raises:
        SystemExit: one line, when it cannot be written.
    """
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
