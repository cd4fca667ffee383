"""Print the fairseq-train flags that build a checkpoint's model, each ended by a null byte.

A file's settings may hold anything: a space in one must not make two flags of it.
"""

from __future__ import annotations

import logging

from one_line_parser import OneLineParser


def main() -> None:
    """Command line: ``model_flags.py --checkpoint PATH [--arch NAME]``."""
    parser = OneLineParser(prog="model_flags.py", description=__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a fairseq checkpoint")
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="only check the checkpoint; the flags are this architecture's",
    )
    args = parser.parse_args()

    # fairseq logs advice when it is imported, which would stand before our one line.
    logging.basicConfig(level=logging.WARNING)
    from neuroprune_fairseq.files.checkpoint import model_flags, read_checkpoint

    state = read_checkpoint(args.checkpoint)
    flags = [f"--arch={args.arch}", "--share-all-embeddings"] if args.arch else model_flags(state)
    for word in flags:
        print(word.replace("\0", ""), end="\0")


if __name__ == "__main__":
    main()
