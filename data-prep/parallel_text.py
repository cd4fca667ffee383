"""Reading and checking parallel text: UTF-8, one sentence a line, as many lines on both sides.

Note:
    A pair with a blank line on either side carries nothing to learn or score. It is left out
    of every split, on both sides, and counted in prepared.json.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

from errors import PrepError
from limits import limited_lines

# Characters that some programs take for the end of a line; inside a line they become spaces,
# so that every reader of the cleaned text counts the same lines.
LINE_BREAKS = dict.fromkeys(map(ord, "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")
# Unicode's spaces, controls and marks of format, such as a zero-width space.
INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}
SPACE_SIGN = "\u2581"  # sentencepiece's own


def has_text(line: str) -> bool:
    """Whether a line has a character that can be seen: else sentencepiece makes nothing of it."""
    return any(category(sign) not in INVISIBLE and sign != SPACE_SIGN for sign in line)


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs of one split: `source[i]` and `target[i]` translate each other.

    `dropped` counts the pairs left out for a blank side.
    """

    source: list[str]
    target: list[str]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.source)

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """Both, source first."""
        return self.source, self.target

    def lowercased(self) -> Pairs:
        """The same pairs in lower case."""
        source = [line.lower() for line in self.source]
        return Pairs(source, [line.lower() for line in self.target], self.dropped)


@dataclass(frozen=True)
class Lines:
    """The text of one split in one language; `dropped` counts the blank lines left out."""

    lines: list[str]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def sides(self) -> tuple[list[str]]:
        """The only one."""
        return (self.lines,)

    def lowercased(self) -> Lines:
        """The same lines in lower case."""
        return Lines([line.lower() for line in self.lines], self.dropped)


Text = Pairs | Lines


def find_text(prefix: Path, language: str) -> Path:
    """`prefix.language`, or the same with .gz.

    Raises:
        PrepError: Neither is a file.
    """
    plain = Path(f"{prefix}.{language}")
    for path in (plain, Path(f"{plain}.gz")):
        if path.is_file():
            return path
    raise PrepError(f"{plain}: no such file (nor {plain.name}.gz)")


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as stream:
            yield from limited_lines(stream, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PrepError(f"{path}: damaged gzip file ({error}); get it again") from error


def _decode(raw: bytes, where: str) -> str:
    """One line as strict UTF-8; `where` names it."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{raw[error.start]:02x}"
        raise PrepError(f"{where} is not UTF-8 ({bad}); convert the file to UTF-8") from error
    if "\0" in line:
        raise PrepError(f"{where} has a null byte, as UTF-16 has; convert the file to UTF-8")
    return line.rstrip("\r\n").translate(LINE_BREAKS)


def read_lines(path: Path) -> list[str]:
    """Reads a text file, plain or .gz, as strict UTF-8; byte order marks are taken off.

    Args:
        path: The file.

    Returns:
        Its lines without their ends. Only a line feed ends a line.

    Raises:
        PrepError: The file is not there, is empty, is damaged, is not UTF-8, or is too
            large or no text of one sentence a line.
    """
    if not path.is_file():
        raise PrepError(f"{path}: no such file")
    raw_lines = enumerate(_raw_lines(path), start=1)
    lines = [_decode(raw, f"{path}: line {number}") for number, raw in raw_lines]
    if not any(map(has_text, lines)):
        raise PrepError(f"{path}: the file is empty; it should have one sentence a line")
    lines[0] = lines[0].lstrip("\ufeff")
    return lines


def pair_up(source: list[str], target: list[str], names: tuple[str, str]) -> Pairs:
    """Puts two sides together and leaves out pairs with a blank side.

    Args:
        source: Lines of the source language.
        target: Lines of the target language.
        names: Where they come from, for the message.

    Raises:
        PrepError: The sides differ in length, or no pair is left.
    """
    if len(source) != len(target):
        raise PrepError(
            f"{names[0]} has {len(source)} lines but {names[1]} has {len(target)}; "
            "parallel text needs the same number"
        )
    kept = [(s, t) for s, t in zip(source, target) if has_text(s) and has_text(t)]
    if not kept:
        raise PrepError(f"{names[0]} and {names[1]}: no pair has text on both sides")
    return Pairs([s for s, _ in kept], [t for _, t in kept], len(source) - len(kept))


def read_pairs(source: Path, target: Path) -> Pairs:
    """Reads and pairs two files."""
    return pair_up(read_lines(source), read_lines(target), (str(source), str(target)))


def joined(texts: Sequence[Pairs]) -> Pairs:
    """Several texts, one behind the other."""
    source = [line for text in texts for line in text.source]
    target = [line for text in texts for line in text.target]
    return Pairs(source, target, sum(text.dropped for text in texts))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes one sentence a line, UTF-8, with line feeds on every system."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)
