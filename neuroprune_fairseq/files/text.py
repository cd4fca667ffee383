"""Text of unknown origin on its way to where it could do something: one function for each place.

Names come from folders, flags and files that others made. They are kept as they are; what is
written for a reader goes through here.
"""

from __future__ import annotations

import re
import sys

# Signs of some scripts' spelling that Python counts among those which cannot be seen.
_HARMLESS = "\u200c\u200d\xa0"
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def printable(text: str, kept: str = "") -> str:
    r"""For terminals, pictures and pages: what controls a terminal or cannot be seen is spelt out.

    Args:
        text: of any origin, even with halves of characters.
        kept: such signs that shall stay, "\n\t" for a document.

    Returns:
        ``text`` with control characters, marks that turn the direction of writing and the like
        as in Python's literals: an escape becomes the four characters ``\x1b``.
    """
    if text.isprintable():
        return text
    kept += _HARMLESS
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def document(text: str) -> str:
    """A whole SVG or HTML file: :func:`printable`, its lines and tabs apart."""
    return printable(text, "\n\t")


def markdown_cell(text: str) -> str:
    """For a cell of a Markdown table: on one line, and with no end of a cell in it."""
    return re.sub(r"(\\*)\|", r"\1\1\\|", printable(text))


def csv_cell(value: object) -> object:
    """For a cell of a CSV file: text that a spreadsheet would take for a formula gets an ``'``."""
    if not isinstance(value, str):
        return value
    value = printable(value)
    return f"'{value}" if _FORMULA.match(value) else value


def print_any_character() -> None:
    """What the terminal's encoding lacks is printed as an escape, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
