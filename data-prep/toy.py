"""Prepares the toy corpus: German and English from one small grammar, without a network."""

from __future__ import annotations

import argparse
import sys
from random import Random

from command_line import Corpus, corpus_parser, run, whole_number
from parallel_text import Pairs
from toy_grammar import draw_sentence

# In this order out of the seed: test and valid stay the same for every --train-pairs.
SIZES = {"test": 500, "valid": 500, "train": 20_000}


def toy_splits(seed: int, sizes: dict[str, int], flip: bool = False) -> dict[str, Pairs]:
    """Splits of these sizes; no sentence comes twice. `flip`: from English to German."""
    rng, seen, splits = Random(seed), set(), {}
    for split in SIZES:
        pairs = []
        while len(pairs) < sizes[split]:
            pair = draw_sentence(rng)
            if all(4 <= len(side.split()) <= 16 for side in pair) and seen.isdisjoint(pair):
                seen.update(pair)
                pairs.append(pair)
        german, english = map(list, zip(*pairs))
        splits[split] = Pairs(english, german) if flip else Pairs(german, english)
    return splits


def describe(args: argparse.Namespace) -> Corpus:
    """The corpus of these options."""
    sizes = {split: getattr(args, f"{split}_pairs") for split in SIZES}
    settings = {"seed": args.seed} | {f"{split}_pairs": size for split, size in sizes.items()}
    return Corpus(
        "toy", lambda *_: toy_splits(args.seed, sizes, args.source_lang == "en"), settings
    )


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = corpus_parser("toy", __doc__, vocab_size=1000)
    parser.add_argument("--seed", type=whole_number(0), default=1, help="seed of the grammar")
    for split, size in SIZES.items():
        what = {"type": whole_number(1), "default": size, "help": f"sentence pairs to {split} with"}
        parser.add_argument(f"--{split}-pairs", **what)
    return run(parser, describe, argv)


if __name__ == "__main__":
    sys.exit(main())
