"""What the scripts of all corpora share: options, one-line errors, and the order of the work."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from binarise import SPLITS, binarise, check_fairseq, write_json, write_texts
from errors import PrepError
from output_folder import SETTINGS_FILE, building, is_prepared
from parallel_text import Text

CHECKOUT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130


@dataclass
class Corpus:
    """What a script knows of its corpus.

    `settings` are those that change the result beyond the common ones; `inputs` are SHA-256
    sums of local files by name; `load` reads the splits, downloading first where it must,
    with an empty folder for what it unpacks, and may add to `inputs` and `notes`.
    """

    name: str
    load: Callable[[Corpus, Path], dict[str, Text]]
    settings: dict = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    languages: tuple[str, ...] = ()  # of a text without the options for them


def _one_line(message: str) -> str:
    signs = " ".join(message.split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in signs)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def parse_known_args(self, *args, **kwargs):
        # What the terminal's encoding lacks is printed as an escape.
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)}\n")


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `minimum`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} up")
        return int(text)

    return parse


def _language(text: str) -> str:
    # fairseq finds languages in file names, between dots and hyphens.
    if not re.fullmatch(r"[A-Za-z0-9_]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of letters, digits and _ alone")
    return text


def corpus_parser(
    name: str,
    description: str,
    vocab_size: int,
    languages: tuple[str, ...] | None = ("de", "en"),
) -> OneLineParser:
    """A parser with the options that every corpus has.

    Args:
        name: The corpus.
        description: For --help.
        vocab_size: The default of --vocab-size.
        languages: Default source and target, the only ones there are; None where any are, empty
            for text of one language.
    """
    parser = OneLineParser(
        prog=f"data-prep/{name}.py",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, default=argparse.SUPPRESS, help="folder to make"
    )
    parser.add_argument(
        "--vocab-size",
        type=whole_number(2),
        default=vocab_size,
        help="pieces of the joint sentencepiece model; a small text may give fewer",
    )
    parser.add_argument("--lowercase", action="store_true", help="lowercase all text")
    for index, side in enumerate(() if languages == () else ("source", "target")):
        default = {"default": languages[index], "choices": languages} if languages else {}
        parser.add_argument(
            f"--{side}-lang",
            type=_language,
            required=not languages,
            help=f"{side} language, as in the file names",
            **default,
        )
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=whole_number(1), default=workers, help="processes of fairseq-preprocess"
    )
    return parser


def run(
    parser: OneLineParser,
    describe: Callable[[argparse.Namespace], Corpus],
    argv: list[str] | None = None,
) -> int:
    """Parses the options, prepares the corpus, and turns failures into one line.

    Args:
        parser: From corpus_parser, with the corpus's own options added.
        describe: Makes the corpus from the options; it checks them but does no long work.
        argv: Command-line words; None for those of this process.

    Returns:
        The exit status.
    """
    args = parser.parse_args(argv)
    if "source_lang" in args and args.source_lang == args.target_lang:
        parser.error(f"--source-lang and --target-lang are both {args.source_lang!r}")
    # Told to end, the temporary folder goes as it does after any other failure.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    try:
        _prepare(args, describe(args))
    except PrepError as error:
        message, status = str(error), 1
    except OSError as error:
        message, status = f"{error.filename or '--out'}: {error.strerror or error}", 1
    except KeyboardInterrupt:
        message, status = "interrupted; nothing is left, start it again", INTERRUPTED
    else:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(f"{parser.prog}: error: {_one_line(message)}", file=sys.stderr)
    return status


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _prepare(args: argparse.Namespace, corpus: Corpus) -> None:
    sides = () if corpus.languages else ("source_lang", "target_lang")
    pair = {side: getattr(args, side) for side in sides}
    languages = corpus.languages or tuple(pair.values())
    settings = {
        "corpus": corpus.name,
        **pair,
        "vocab_size": args.vocab_size,
        "lowercase": args.lowercase,
        **corpus.settings,
    }
    out = args.out.resolve()
    if is_prepared(out, settings, corpus.inputs):
        _say(f"{args.out}: already prepared")
        return
    check_fairseq()
    with building(out) as folder:
        _say(f"[1/3] {corpus.name}: reading {' '.join(['-'.join(pair.values()), 'text']).strip()}")
        scratch = folder / "scratch"
        scratch.mkdir()
        splits = corpus.load(corpus, scratch)
        shutil.rmtree(scratch)
        if args.lowercase:
            splits = {split: text.lowercased() for split, text in splits.items()}
        write_texts(splits, folder, languages)
        _say(f"[2/3] sentencepiece with {args.vocab_size} pieces, then fairseq-preprocess")
        pieces = binarise(splits, folder, languages, args.vocab_size, args.workers)
        write_json(folder / SETTINGS_FILE, _record(settings, corpus, splits, pieces))
    counts = ", ".join(f"{split} {len(splits[split])}" for split in SPLITS)
    _say(f"[3/3] {args.out}: {counts} {'pairs' if pair else 'lines'}, {pieces} pieces")


def _record(settings: dict, corpus: Corpus, splits: dict[str, Text], pieces: int) -> dict:
    return {
        "settings": settings,
        "inputs": corpus.inputs,
        "pairs": {split: len(splits[split]) for split in SPLITS},
        "dropped_blank_pairs": {split: splits[split].dropped for split in SPLITS},
        "pieces": pieces,
        "notes": corpus.notes,
    }
