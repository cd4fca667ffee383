"""Print results files of evaluate.sh as one table and, with --picture, draw it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from neuroprune_experiments import require
from neuroprune_experiments.records import evaluation_rows, markdown, read_evaluations
from neuroprune_fairseq.files.errors import OneLineParser, refusing


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: ``python -m neuroprune_experiments.table --results FILE… [--picture STEM]``.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = OneLineParser(prog="table", description=__doc__)
    parser.add_argument("--results", required=True, nargs="+", metavar="FILE", help="JSON Lines")
    parser.add_argument("--picture", metavar="STEM", help="writes STEM.png and STEM.svg")
    args = parser.parse_args(argv)
    if args.picture and not Path(args.picture).parent.is_dir():
        parser.error(f"--picture {args.picture}: there is no folder {Path(args.picture).parent}")
    # One of fairseq's modules lets everybody tell everything.
    logging.getLogger().setLevel(logging.WARNING)
    records = [record for path in args.results for record in read_evaluations(path)]
    print(markdown(evaluation_rows(records)))
    if args.picture:
        require("matplotlib")
        from neuroprune_experiments.figures import draw_overview

        with refusing(f"--picture {args.picture} cannot be written", OSError):
            print("Picture:", *draw_overview(records, args.picture))


if __name__ == "__main__":
    main()
