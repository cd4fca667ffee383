"""Reading a prepared corpus, and writing it again with other targets to train with."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary, data_utils, indexed_dataset
from torch import Tensor

from neuroprune_fairseq.files.checkpoint import language_pair
from neuroprune_fairseq.files.errors import refuse, refusing

SPACE_SIGN = "\u2581"  # sentencepiece's


class Corpus:
    """The training text of a prepared corpus: ids of tokens with </s>, and dictionaries."""

    def __init__(self, data: Path) -> None:
        self.data, self.pair = data, language_pair(data, "train")
        self.dictionaries: list[Dictionary] = []
        self.sides: list[Any] = []
        for language in self.pair:
            stem, words = self.stem(language), data / f"dict.{language}.txt"
            with refusing(f"--data {data}: {words} and {stem} cannot be read; prepare it again"):
                self.dictionaries.append(Dictionary.load(str(words)))
                self.sides.append(data_utils.load_indexed_dataset(str(stem), self.dictionaries[-1]))
                len(self.sides[-1])  # None where there is no such text

    def stem(self, language: str, part: str = "train", folder: Path | None = None) -> Path:
        """A side of a part of the corpus, without the endings of its two files."""
        return (folder or self.data) / f"{part}.{self.pair[0]}-{self.pair[1]}.{language}"

    def pieces(self, number: int) -> list[str]:
        """The pieces of a source sentence, without </s>."""
        return [self.dictionaries[0][i] for i in self.sides[0][number].tolist()[:-1]]

    def encoded(self, line: str) -> Tensor:
        """The ids of the pieces of a target sentence, with </s>."""
        words = self.dictionaries[1]
        return torch.tensor([*map(words.index, line.split(" ")), words.eos()])


def write_side(stem: Path, sentences: Iterable[Tensor], dictionary: Dictionary) -> None:
    """Write one side of a text as fairseq-preprocess does: STEM.bin and STEM.idx."""
    builder = indexed_dataset.make_builder(f"{stem}.bin", "mmap", len(dictionary))
    for sentence in sentences:
        builder.add_item(sentence)
    builder.finalize(f"{stem}.idx")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file."""
    with refusing(f"{path} cannot be read as text", OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _copy_rest(data: Path, folder: Path) -> None:
    """What is not training text: dictionaries, spm.model, the other parts and their text."""
    for old, new in ((data, folder), (data / "text", folder / "text")):
        if old.is_dir():
            new.mkdir()
        for path in old.glob("[!.]*"):
            if path.is_file() and not path.name.startswith("train."):
                shutil.copy(path, new)


def _write_text(
    corpus: Corpus, folder: Path, lines: list[str], kept: list[int], joined: bool
) -> None:
    """text/train.LANGUAGE, for people; where the corpus has such a folder."""
    symbol = "sentencepiece" if (corpus.data / "spm.model").is_file() else "none"
    texts = [read_lines(corpus.data / "text" / f"train.{language}") for language in corpus.pair]
    if len(texts[0]) != len(lines):
        refuse(f"--data {corpus.data}: text/ has another number of lines than the binarised text")
    new = [texts[0], [data_utils.post_process(line, symbol) for line in lines]]
    for language, old, side in zip(corpus.pair, texts, new):
        text = chain(old if joined else (), (side[i] for i in kept))
        with (folder / "text" / f"train.{language}").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in text)


def write_corpus(corpus: Corpus, folder: Path, lines: list[str], joined: bool) -> tuple[int, int]:
    """Write a corpus with other targets to train with.

    Args:
        corpus: the old one.
        folder: of the new one, not there yet.
        lines: pieces of the new targets, in the old one's order; pairs with a blank one are left
            out.
        joined: put the old pairs before the new ones.

    Returns:
        Pairs of training text, and how many were left out.
    """
    _copy_rest(corpus.data, folder)
    kept = [number for number, line in enumerate(lines) if line.replace(SPACE_SIGN, "").strip()]
    new = [(corpus.sides[0][i] for i in kept), (corpus.encoded(lines[i]) for i in kept)]
    for language, words, old, side in zip(corpus.pair, corpus.dictionaries, corpus.sides, new):
        originals = (old[i] for i in range(len(old))) if joined else ()
        write_side(corpus.stem(language, folder=folder), chain(originals, side), words)
    if (corpus.data / "text").is_dir():
        _write_text(corpus, folder, lines, kept, joined)
    return len(kept) + joined * len(lines), len(lines) - len(kept)
