"""Prepares any parallel text: PREFIX.LANGUAGE files (plain or .gz), one sentence a line.

Several texts for one split are put together in the order given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from command_line import Corpus, corpus_parser, run
from download import sha256
from parallel_text import Pairs, find_text, joined, read_pairs


def describe(args: argparse.Namespace) -> Corpus:
    """The corpus of these options."""
    languages = (args.source_lang, args.target_lang)
    prefixes = {"train": args.train_pref, "valid": args.valid_pref, "test": args.test_pref}
    files = {
        split: [tuple(find_text(prefix, language) for language in languages) for prefix in named]
        for split, named in prefixes.items()
    }
    inputs = {
        f"{split}{f'.{number}' if number else ''}.{language}": sha256(path)
        for split, texts in files.items()
        for number, paths in enumerate(texts)
        for language, path in zip(languages, paths)
    }

    def load(corpus: Corpus, scratch: Path) -> dict[str, Pairs]:
        return {split: joined([read_pairs(*t) for t in texts]) for split, texts in files.items()}

    return Corpus("text", load, inputs=inputs)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = corpus_parser("text", __doc__, vocab_size=8000, languages=None)
    for split in ("train", "valid", "test"):
        parser.add_argument(
            f"--{split}-pref",
            type=Path,
            nargs="+",
            required=True,
            metavar="PREFIX",
            help=f"{split} text: the file names without .LANGUAGE; several are put together",
        )
    return run(parser, describe, argv)


if __name__ == "__main__":
    sys.exit(main())
