"""Prepares text for a language model: files (plain or .gz) of one sentence or paragraph a line.

Several files for one split are put together in the order given. Blank lines are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from binarise import SPLITS
from command_line import Corpus, corpus_parser, run
from download import sha256
from errors import PrepError
from parallel_text import Lines, has_text, read_lines


def read_text(paths: list[Path]) -> Lines:
    """Reads files one behind the other, without their blank lines."""
    lines = [line for path in paths for line in read_lines(path)]
    kept = [line for line in lines if has_text(line)]
    return Lines(kept, len(lines) - len(kept))


def describe(args: argparse.Namespace) -> Corpus:
    """The corpus of these options.

    Raises:
        PrepError: A file is missing.
    """
    files = {split: getattr(args, split) for split in SPLITS}
    if missing := [path for paths in files.values() for path in paths if not path.is_file()]:
        raise PrepError(f"{missing[0]}: no such file")
    inputs = {
        f"{split}{f'.{number}' if number else ''}": sha256(path)
        for split, paths in files.items()
        for number, path in enumerate(paths)
    }

    def load(corpus: Corpus, scratch: Path) -> dict[str, Lines]:
        return {split: read_text(paths) for split, paths in files.items()}

    return Corpus("monolingual", load, inputs=inputs, languages=("",))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = corpus_parser("monolingual", __doc__, vocab_size=8000, languages=())
    for split in SPLITS:
        parser.add_argument(
            f"--{split}", type=Path, nargs="+", required=True, metavar="FILE", help=f"{split} text"
        )
    return run(parser, describe, argv)


if __name__ == "__main__":
    sys.exit(main())
