"""Reading JSON Lines: every results file and run log, with the line to blame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroprune_fairseq.errors import refuse


def read_text(path: str | Path, what: str, writer: str) -> str:
    """A whole text file.

    Args:
        path: the file.
        what: its name in a message, such as "results file".
        writer: the command that writes such files.

    Raises:
        SystemExit: one line, when it is missing or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        refuse(f"{path}: no such {what}; {writer} writes one")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path} cannot be read as text ({getattr(error, 'strerror', None) or error})")


def read_json_lines(path: str | Path, what: str, writer: str) -> Iterator[tuple[int, Any]]:
    """The values of a JSON Lines file, each with the number of its line; blank lines are skipped.

    Args:
        path, what, writer: as for :func:`read_text`.

    Raises:
        SystemExit: one line that names file and line, when it is missing, no text, damaged
            or empty.
    """
    found = 0
    # Not splitlines: a text may hold characters that it takes for line ends.
    for number, line in enumerate(read_text(path, what, writer).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            refuse(f"{path}, line {number} is damaged: it is no JSON")
        found += 1
        yield number, value
    if not found:
        refuse(f"{path} is empty; {writer} adds to it")
