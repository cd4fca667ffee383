"""Print the fairseq-train flags that build a checkpoint's model, each ended by a null byte.

A file's settings may hold anything: a space in one must not make two flags of it.
"""

from neuroprune_fairseq.files.checkpoint import model_flags, read_checkpoint
from neuroprune_fairseq.files.errors import OneLineParser


def main() -> None:
    """Command line: ``model_flags.py --checkpoint PATH [--arch NAME]``."""
    parser = OneLineParser(prog="model_flags.py", description=__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a fairseq checkpoint")
    parser.add_argument("--arch", metavar="NAME", help="only check the checkpoint; use its flags")
    args = parser.parse_args()
    state = read_checkpoint(args.checkpoint)
    flags = [f"--arch={args.arch}", "--share-all-embeddings"] if args.arch else model_flags(state)
    print(*(word.replace("\0", "") for word in flags), sep="\0", end="\0")


if __name__ == "__main__":
    main()
