"""How a wrong setting ends a run: one line, no traceback."""

from __future__ import annotations

from typing import NoReturn


def refuse(message: str) -> NoReturn:
    """Leave with one line that names the flag or file, what is wrong and what would be right.

    Raises:
        SystemExit: also inside fairseq-train, where any other exception ends as a traceback.
    """
    raise SystemExit(f"neuroprune_fairseq: error: {message}")
