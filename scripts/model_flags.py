"""Print the fairseq-train flags that build a checkpoint's model, on one line."""

from __future__ import annotations

import argparse
import logging


def main() -> None:
    """Command line: ``model_flags.py --checkpoint PATH``."""
    parser = argparse.ArgumentParser(prog="model_flags.py", description=__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a fairseq checkpoint")
    args = parser.parse_args()

    # fairseq logs advice when it is imported, which would stand before our one line.
    logging.basicConfig(level=logging.WARNING)
    from neuroprune_fairseq.checkpoint import model_flags, read_checkpoint

    print(*model_flags(read_checkpoint(args.checkpoint)))


if __name__ == "__main__":
    main()
