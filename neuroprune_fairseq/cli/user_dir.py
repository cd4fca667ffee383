"""Console scripts of the installed package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuroprune_fairseq.files.errors import OneLineParser


def user_dir(argv: Sequence[str] | None = None) -> None:
    """``neuroprune-user-dir``: print the folder that fairseq's ``--user-dir`` wants.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = OneLineParser(
        prog="neuroprune-user-dir",
        description="Print the folder of the installed plugin, as in: "
        'fairseq-train DATA --user-dir "$(neuroprune-user-dir)" ...',
    )
    parser.parse_args(argv)
    print(Path(__file__).resolve().parent.parent)
