"""How a wrong setting or file ends a run: one line, no traceback."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from neuroprune_fairseq.files.text import print_any_character, printable

LONGEST_REASON = 200


def _one_line(message: str) -> str:
    return printable(" ".join(message.splitlines()))


def refuse(message: str) -> NoReturn:
    """Leave with one line that names the flag or file, what is wrong and what would be right.

    Raises:
        SystemExit: also inside fairseq-train, where any other exception ends as a traceback.
    """
    raise SystemExit(f"neuroprune_fairseq: error: {_one_line(message)}")


def reason(error: BaseException) -> str:
    """What went wrong, short and on one line: the system's words, or the error's first line."""
    text = getattr(error, "strerror", None) or next(iter(str(error).strip().splitlines()), "")
    return " ".join(text.split())[:LONGEST_REASON] or type(error).__name__


@contextmanager
def refusing(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Within it, an error ends the run in one line: ``message`` and the error's reason.

    Args:
        message: names the flag or file and the way out.
        kinds: of errors; none means all, for what fairseq, torch or a database may raise
            over a file of the user's.
    """
    caught = kinds or (Exception,)
    try:
        yield
    except caught as error:
        refuse(f"{message} ({reason(error)})")


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it.

    Every command of ours begins with one, so this is where the terminal is prepared.
    """

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        print_any_character()
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)}\n")


def check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        refuse(f"{flag} {value} is none of {', '.join(choices)}")
