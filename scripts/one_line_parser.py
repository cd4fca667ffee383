"""The parser of the programs behind the scripts; needs nothing but Python."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


def _one_line(message: str) -> str:
    signs = " ".join(message.splitlines())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in signs)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def parse_known_args(self, *args, **kwargs):
        # What the terminal's encoding lacks is printed as an escape.
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)}\n")
