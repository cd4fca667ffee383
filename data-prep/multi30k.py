"""Prepares Multi30k German-English: image captions, test set of 2016 (Flickr)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from command_line import CHECKOUT, Corpus, corpus_parser, run
from download import download, sha256
from errors import PrepError
from parallel_text import Pairs, find_text, read_pairs

FILES = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
LANGUAGES = ("de", "en")
HOMES = (
    "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/",
    "https://github.com/multi30k/dataset/raw/master/data/task1/raw/",
)
# Taken from the files in the data set's own repository.
SHA256 = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
}


def download_all(folder: Path) -> None:
    """Gets the six files into `folder`; those already there and whole are kept."""
    for name, expected in SHA256.items():
        urls = tuple(home + name for home in HOMES)
        download(urls, folder / name, expected, "; get the files by hand and name --raw DIR")


def local_inputs(raw: Path) -> dict[str, str]:
    """SHA-256 sums of the six files of --raw.

    Raises:
        PrepError: The folder or one of its files is missing.
    """
    if not raw.is_dir():
        raise PrepError(f"--raw {raw}: no such folder")
    paths = [find_text(raw / stem, lang) for stem in FILES.values() for lang in LANGUAGES]
    return {path.name: sha256(path) for path in paths}


def describe(args: argparse.Namespace) -> Corpus:
    """The corpus of these options."""

    def load(corpus: Corpus, scratch: Path) -> dict[str, Pairs]:
        raw = args.raw or args.download_dir
        if not args.raw:
            download_all(raw)
            corpus.inputs.update(local_inputs(raw))
        languages = (args.source_lang, args.target_lang)
        return {
            split: read_pairs(*(find_text(raw / stem, lang) for lang in languages))
            for split, stem in FILES.items()
        }

    inputs = local_inputs(args.raw) if args.raw else {}
    return Corpus("multi30k", load, inputs=inputs)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = corpus_parser("multi30k", __doc__, vocab_size=4000)
    parser.add_argument(
        "--raw",
        type=Path,
        help="folder with {train,val,test_2016_flickr}.{de,en}, plain or .gz; without it they "
        "are downloaded",
    )
    parser.add_argument(
        "--download-dir",
        type=Path,
        default=CHECKOUT / "data-raw" / "multi30k",
        help="where downloads are kept",
    )
    return run(parser, describe, argv)


if __name__ == "__main__":
    sys.exit(main())
