"""The one exception of data preparation: its text is the line that the user reads."""

from __future__ import annotations


class PrepError(Exception):
    """What is wrong and what would be right, in one line; the command line prints it and ends."""
