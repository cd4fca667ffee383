"""Prepares the toy corpus: German and English from one small grammar, without a network.

The grammar has agreement in gender, case and number, verb-second and verb-final clauses,
separable verbs, compounds, relative clauses and spelled numbers. The test and validation
sets come first out of the seed, so they stay the same for every --train-pairs.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

from command_line import Corpus, corpus_parser, run, whole_number
from parallel_text import Pairs
from toy_sentences import sentence_pairs


def toy_splits(seed: int, sizes: dict[str, int], flip: bool = False) -> dict[str, Pairs]:
    """Splits of the toy corpus; no sentence is in two of them, on either side.

    Args:
        seed: Seed of the grammar.
        sizes: Pairs wanted for train, valid and test.
        flip: English to German instead of German to English.
    """
    pairs = sentence_pairs(seed)
    splits = {}
    for split in ("test", "valid", "train"):
        german, english = map(list, zip(*islice(pairs, sizes[split])))
        splits[split] = Pairs(english, german) if flip else Pairs(german, english)
    return splits


def describe(args: argparse.Namespace) -> Corpus:
    """The corpus of these options."""
    sizes = {"train": args.train_pairs, "valid": args.valid_pairs, "test": args.test_pairs}

    def load(corpus: Corpus, scratch: Path) -> dict[str, Pairs]:
        return toy_splits(args.seed, sizes, flip=args.source_lang == "en")

    settings = {"seed": args.seed} | {f"{split}_pairs": size for split, size in sizes.items()}
    return Corpus("toy", load, settings)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = corpus_parser("toy", __doc__, vocab_size=1000)
    parser.add_argument("--seed", type=whole_number(0), default=1, help="seed of the grammar")
    for split, size in (("train", 20_000), ("valid", 500), ("test", 500)):
        parser.add_argument(
            f"--{split}-pairs",
            type=whole_number(1),
            default=size,
            help=f"sentence pairs of the {split} split",
        )
    return run(parser, describe, argv)


if __name__ == "__main__":
    sys.exit(main())
