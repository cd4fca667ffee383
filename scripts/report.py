"""Print results files of evaluate.sh as one table and, with --picture, draw it."""

from __future__ import annotations

import logging
from pathlib import Path

from one_line_parser import OneLineParser


def main() -> None:
    """Command line: ``report.py --results FILE… [--picture STEM]``."""
    parser = OneLineParser(prog="report.py", description=__doc__)
    parser.add_argument("--results", required=True, nargs="+", metavar="FILE", help="JSON Lines")
    parser.add_argument("--picture", metavar="STEM", help="writes STEM.png and STEM.svg")
    args = parser.parse_args()
    if args.picture and not Path(args.picture).parent.is_dir():
        parser.error(f"--picture {args.picture}: there is no folder {Path(args.picture).parent}")

    # fairseq logs advice when it is imported, which would stand before our one line.
    logging.basicConfig(level=logging.WARNING)
    from neuroprune_experiments.records import evaluation_rows, markdown, read_evaluations
    from neuroprune_fairseq.files.errors import refusing

    records = [record for path in args.results for record in read_evaluations(path)]
    print(markdown(evaluation_rows(records)))
    if args.picture:
        from neuroprune_experiments import require

        require("matplotlib")
        from neuroprune_experiments.figures import draw_overview

        with refusing(f"--picture {args.picture} cannot be written", OSError):
            print("Picture:", *draw_overview(records, args.picture))


if __name__ == "__main__":
    main()
