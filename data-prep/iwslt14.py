"""Prepares IWSLT 2014 German-English: TED talks, cleaned and split as is usual.

Training text: the lines of url, keywords and the like go, title and description stay without
their tags, pairs of 1 to 175 tokens with a length ratio up to 1.5 are kept, and every 23rd of
these goes to validation. Test text: dev2010, TEDX dev2012, tst2010, tst2011 and tst2012 in
this order, 6,750 pairs.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from xml.sax.saxutils import unescape

from archive import unpack
from command_line import CHECKOUT, Corpus, corpus_parser, run
from download import download, sha256
from errors import PrepError
from parallel_text import Pairs, pair_up, read_lines

HOMES = (
    "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz",
    "https://wit3.fbk.eu/archive/2014-01/texts/de/en/de-en.tgz",
)
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
TEST_PAIRS = 6750
MAX_TOKENS, MAX_RATIO, VALID_EVERY = 175, 1.5, 23
METADATA = re.compile(r"</?(url|keywords|talkid|speaker|reviewer|translator|doc)\b")
KEPT_TAGS = re.compile(r"</?(?:title|description)>")
ENTITIES = {"&quot;": '"', "&apos;": "'"}
# The usual script counts Moses tokens, which need Perl. These are close to them: initials,
# numbers with points and commas, words with hyphens, apostrophe endings, dashes and dots in a
# row, and every other sign alone.
TOKEN = re.compile(r"(?:[^\W\d_]\.){2,}|\d+(?:[.,]\d+)+|\w+(?:-\w+)*|'\w+|--+|\.\.+|[^\w\s]")


def count_tokens(line: str) -> int:
    """Length of a sentence for the filters."""
    return len(TOKEN.findall(line))


def training_lines(lines: list[str]) -> list[str]:
    """Takes tags off; the lines that hold data about a talk and no sentence are left out."""
    kept = (KEPT_TAGS.sub("", line) for line in lines if not METADATA.match(line.strip()))
    return [unescape(line, ENTITIES).strip() for line in kept]


def segments(lines: list[str]) -> list[str]:
    """The sentences of an evaluation set, which looks like XML but need not be.

    Matched as text: no entity is expanded but the five of XML, and nothing is fetched.
    """
    # Not by a regular expression: many starts without an end would take it forever.
    chunks = "\n".join(lines).split("</seg>")[:-1]
    starts = (chunk.partition("<seg id=")[2].partition(">") for chunk in chunks)
    found = [segment for _, end, segment in starts if end]
    flat = (" ".join(unescape(segment, ENTITIES).split()) for segment in found)
    # As usual for these sets; the training text has straight apostrophes.
    return [line.replace("\u2019", "'") for line in flat]


def fits(source: str, target: str) -> bool:
    """Whether a training pair passes the length filters."""
    lengths = sorted((count_tokens(source), count_tokens(target)))
    return lengths[0] >= 1 and lengths[1] <= MAX_TOKENS and lengths[1] <= MAX_RATIO * lengths[0]


def split_training(pairs: Pairs) -> tuple[dict[str, Pairs], int]:
    """Filters, then sends every 23rd pair that is left to validation.

    Returns:
        The splits train and valid, and how many pairs the filters left out.

    Raises:
        PrepError: Too few pairs are left for a validation set.
    """
    kept = [pair for pair in zip(pairs.source, pairs.target) if fits(*pair)]
    if len(kept) < VALID_EVERY:
        raise PrepError(f"training text: {len(kept)} pairs pass the filters, {VALID_EVERY} needed")
    valid = kept[VALID_EVERY - 1 :: VALID_EVERY]
    train = [pair for number, pair in enumerate(kept, start=1) if number % VALID_EVERY]
    splits = {
        "train": Pairs([s for s, _ in train], [t for _, t in train], pairs.dropped),
        "valid": Pairs([s for s, _ in valid], [t for _, t in valid]),
    }
    return splits, len(pairs) - len(kept)


def read_archive(
    archive: Path, languages: tuple[str, str], scratch: Path
) -> tuple[dict[str, Pairs], dict]:
    """The three splits of an archive, and what the filters did."""
    names = [f"train.tags.de-en.{language}" for language in languages]
    tests = [[f"IWSLT14.{name}.de-en.{lang}.xml" for lang in languages] for name in TEST_SETS]
    paths = unpack(archive, [*names, *(name for pair in tests for name in pair)], scratch)
    training = pair_up(*(training_lines(read_lines(paths[name])) for name in names), tuple(names))
    splits, filtered = split_training(training)
    sets = [
        pair_up(*(segments(read_lines(paths[name])) for name in pair), tuple(pair))
        for pair in tests
    ]
    splits["test"] = Pairs(
        [line for part in sets for line in part.source],
        [line for part in sets for line in part.target],
        sum(part.dropped for part in sets),
    )
    return splits, {"pairs_filtered_by_length": filtered}


def describe(args: argparse.Namespace) -> Corpus:
    """The corpus of these options."""

    def load(corpus: Corpus, scratch: Path) -> dict[str, Pairs]:
        archive = args.archive
        if archive is None:
            path = args.download_dir / "de-en.tgz"
            archive = download(HOMES, path, otherwise="; get it by hand and name --archive PATH")
            corpus.inputs["archive"] = sha256(archive)
        languages = (args.source_lang, args.target_lang)
        splits, corpus.notes = read_archive(archive, languages, scratch)
        if len(splits["test"]) != TEST_PAIRS:
            found = len(splits["test"])
            print(f"note: {found} test pairs; the usual set has {TEST_PAIRS}", file=sys.stderr)
        return splits

    inputs = {"archive": sha256(args.archive)} if args.archive else {}
    return Corpus("iwslt14", load, inputs=inputs)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = corpus_parser("iwslt14", __doc__, vocab_size=10_000)
    parser.add_argument(
        "--archive", type=Path, help="de-en.tgz of the campaign; without it, it is downloaded"
    )
    parser.add_argument(
        "--download-dir",
        type=Path,
        default=CHECKOUT / "data-raw" / "iwslt14",
        help="where the download is kept",
    )
    return run(parser, describe, argv)


if __name__ == "__main__":
    sys.exit(main())
