"""How much of a file is read: far more than any corpus has, far less than what ends a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from errors import PrepError

# Unpacked. Talks have 0.1 GB; all is held in memory, which ends before this does.
MAX_BYTES = 4 * 1024**3
# A sentence of a million bytes is none: it is a file without line feeds.
MAX_LINE_BYTES = 1024**2
MAX_LINES = 100_000_000
MAX_MEMBERS = 10_000  # of an archive
CHUNK_BYTES = 64 * 1024


def limited_lines(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """The lines of a stream, with their ends; no more is held than one of them.

    Args:
        stream: what the file is unpacked to.
        path: the file, for messages.

    Raises:
        PrepError: A line is too long, or there are too many bytes or lines.
    """
    size = number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        size, number = size + len(line), number + 1
        if len(line) > MAX_LINE_BYTES:
            raise PrepError(
                f"{path}: line {number} is longer than {MAX_LINE_BYTES:,} bytes; "
                "it should have one sentence a line"
            )
        if size > MAX_BYTES or number > MAX_LINES:
            raise PrepError(
                f"{path}: more than {MAX_BYTES:,} bytes or {MAX_LINES:,} lines; split the text"
            )
        yield line


class LimitedFile:
    """A binary file as tarfile reads one, which refuses to give much at once or in all.

    Unpacked bytes are counted wherever they are passed over, so a small file that unpacks to
    a huge one is refused before it has been.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self._place = stream, path, 0

    def read(self, size: int = -1) -> bytes:
        """As of a file, but of a size that is no surprise."""
        if not 0 <= size <= CHUNK_BYTES:
            raise PrepError(f"{self._path}: has a header of {size:,} bytes, which no corpus has")
        data = self._stream.read(size)
        self._move_to(self._place + len(data))
        return data

    def seek(self, place: int) -> int:
        """As of a file; only forward in steps, so that what is skipped is counted."""
        while self._place < place and self.read(min(CHUNK_BYTES, place - self._place)):
            pass
        if place < self._place:
            self._place = self._stream.seek(place)
        return self._place

    def tell(self) -> int:
        """As of a file."""
        return self._place

    def _move_to(self, place: int) -> None:
        self._place = place
        if place > MAX_BYTES:
            raise PrepError(f"{self._path}: unpacks to more than {MAX_BYTES:,} bytes")
