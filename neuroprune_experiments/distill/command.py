"""Translate the training text of a corpus with a teacher, and make a corpus of it.

Sequence-level distillation (Kim and Rush 2016): the new corpus has the dictionaries, the
sentencepiece model and all other parts of the old one; only the targets of its training text are
the teacher's translations. The same command again goes on where it stopped. Called by
scripts/distill.sh, which finds the environment.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from neuroprune_fairseq.files.errors import OneLineParser, refuse


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="distill.sh",
        description=__doc__.rpartition(" Called")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="prepared corpus")
    teacher = "the teacher; of several, with ':' between them, the probabilities are averaged"
    add("--checkpoint", required=True, metavar="PATH[:PATH...]", help=teacher)
    add("--out", type=Path, required=True, metavar="DIR", help="corpus to make")
    add("--beam", type=int, default=5, metavar="N", help="beam size (default: 5)")
    workers = min(4, os.cpu_count() or 1)
    how = "threads of the engine, or processes of fairseq-generate (default: %(default)s)"
    add("--workers", type=int, default=workers, metavar="N", help=how)
    add("--join", action="store_true", help="keep the original pairs, too, before the new ones")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of distill.sh.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    for name in ("beam", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # what it loads is no news
    # After the command line, since this takes time.
    from neuroprune_experiments.distill.making import Job, make

    checkpoints = tuple(map(Path, args.checkpoint.split(os.pathsep)))
    try:
        make(Job(args.data, checkpoints, args.out, args.beam, args.workers, args.join))
    except KeyboardInterrupt:
        refuse("interrupted; the same command goes on from here")
