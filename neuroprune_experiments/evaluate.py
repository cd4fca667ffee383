"""Translate a test set, score it, and add one JSON line to a file.

The line holds BLEU (detokenised; mixed case and lower-cased) with sacreBLEU's signatures, the
heads kept, the sparsities, the number of parameters, generation speed, and what is needed to
know where the numbers come from. Called by scripts/evaluate.sh, which finds the environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroprune_experiments import require
from neuroprune_fairseq.files.errors import OneLineParser, refuse


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="evaluate.sh",
        description=__doc__.rpartition(" Called")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every other flag is passed on to fairseq-generate.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="prepared corpus")
    add("--checkpoint", required=True, metavar="PATH", help="any checkpoint fairseq loads")
    engine = "translate with this export of the checkpoint (neuroprune-export), not with fairseq"
    add("--engine", type=Path, metavar="DIR", help=engine)
    shortlist = "use its shortlist (neuroprune-export --shortlist)"
    add("--shortlist", action="store_true", help=shortlist)
    subset = "parts of the corpus, a line for each (default: test)"
    add("--subset", nargs="+", default=["test"], metavar="NAME", help=subset)
    add("--beam", type=int, default=5, metavar="N", help="beam size (default: 5)")
    add("--lenpen", type=float, default=1.0, metavar="X", help="length penalty (default: 1.0)")
    add("--batch-size", type=int, default=128, metavar="N", help="sentences (default: 128)")
    zeroed = "zero prunable weights with |w| < T first, then measure and translate (default: 0)"
    add("--tolerance", type=float, default=0.0, metavar="T", help=zeroed)
    add("--rouge", action="store_true", help="also score with ROUGE-1, -2 and -L, for summaries")
    add("--results", metavar="FILE", help="default: results.jsonl beside the checkpoint")
    add("--label", metavar="NAME", help="name in the results (default: the checkpoint's folder)")
    field = "a further entry of the line; may be repeated; numbers stay numbers"
    add("--field", action="append", default=[], metavar="KEY=VALUE", help=field)
    return parser


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; what is unknown goes to fairseq-generate."""
    parser = _parser()
    args, flags = parser.parse_known_args(argv)
    if args.beam < 1 or args.batch_size < 1:
        parser.error("--beam and --batch-size must be at least 1")
    if not 0 <= args.tolerance < math.inf:
        parser.error(f"--tolerance {args.tolerance} must be a finite number >= 0")
    if args.engine and args.tolerance:
        parser.error("--engine excludes --tolerance: what was exported is what translates")
    if args.shortlist and not args.engine:
        parser.error("--shortlist needs --engine: fairseq-generate has none")
    if args.rouge:
        require("rouge_score")
    if args.engine and importlib.util.find_spec("ctranslate2") is None:
        parser.error("--engine needs the package ctranslate2: pip install ctranslate2")
    try:
        args.fields = dict(parse_field(field) for field in args.field)
    except ValueError as error:
        parser.error(str(error))
    return args, [flag for flag in flags if flag != "--"]


def parse_field(text: str) -> tuple[str, Any]:
    """'seed=1' -> ('seed', 1); a value that is no JSON stays text.

    Raises:
        ValueError: there is no key or no '='.
    """
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise ValueError(f"--field {text} must be KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of evaluate.sh.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    args, flags = parse_arguments(argv)
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # what it loads is no news
    # After the command line, since this takes time.
    from neuroprune_experiments import evaluation
    from neuroprune_experiments.records import check_results
    from neuroprune_experiments.scores import ROUGE
    from neuroprune_fairseq.files.results import append_line
    from neuroprune_fairseq.files.text import printable

    how = (args.beam, args.lenpen, args.batch_size, tuple(flags))
    settings = [evaluation.GenerationSettings(subset, *how) for subset in args.subset]
    checkpoint = Path(args.checkpoint)
    results = Path(args.results) if args.results else checkpoint.parent / "results.jsonl"
    check_results(results)
    label = args.label or checkpoint.resolve().parent.name
    how = (args.tolerance, args.engine, args.shortlist, args.rouge)
    for found in evaluation.evaluate(checkpoint, args.data, settings, *how):
        record = {"label": label, **found}
        taken = sorted(args.fields.keys() & record.keys())
        if taken:
            refuse(f"--field {taken[0]}: the line has an entry of this name already")
        append_line(results, record | args.fields)
        rouge = "".join(f"ROUGE-{name[5:]} {record[name]:.2f}, " for name in ROUGE if args.rouge)
        print(
            f"{printable(label)}: BLEU {record['bleu']:.2f}, {rouge}{record['heads_kept']} of "
            f"{record['heads_total']} heads, sparsity {record['total_sparsity']:.3f}, "
            f"{record['tokens_per_second']:.0f} tokens/s; added to {results}"
        )


if __name__ == "__main__":
    main()
