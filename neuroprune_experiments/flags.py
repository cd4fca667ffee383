"""Types of command-line values: numbers within bounds, lists of different values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def number(kind: Callable, low: float, high: float, text: str) -> Callable[[str], float]:
    """An argparse type: a number within bounds, ``text`` says which."""

    def parse(value: str) -> float:
        try:
            found = kind(value)
        except ValueError:
            found = None
        if found is None or not low <= found <= high:
            raise argparse.ArgumentTypeError(f"{value} must be {text}")
        return found

    return parse


def list_of(
    kind: Callable[[str], Any], what: str = "numbers, as in 1,2,3"
) -> Callable[[str], list[Any]]:
    """An argparse type: different values, separated by commas; ``what`` they are."""

    def parse(value: str) -> list[Any]:
        found = [kind(part) for part in value.split(",") if part.strip()]
        if not found or len({*found}) < len(found):
            raise argparse.ArgumentTypeError(f"{value!r} must be different {what}")
        return found

    return parse
