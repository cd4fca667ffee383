"""Unpacking a downloaded archive with nothing in it trusted."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from errors import PrepError

# Text corpora of this kind are a few dozen megabytes; much more is a bomb or a mistake.
MAX_BYTES = 2 * 1024**3
CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def _naming_damage(archive: Path) -> Iterator[None]:
    """Turns whatever reading a damaged archive raises, of many kinds, into one line."""
    try:
        yield
    except PrepError:
        raise
    except Exception as error:
        message = f"{archive}: not a whole tar archive ({error}); get it again"
        raise PrepError(message) from error


def _check(members: list[tarfile.TarInfo], archive: Path) -> None:
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise PrepError(f"{archive}: member {member.name!r} reaches outside its folder")
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise PrepError(f"{archive}: member {member.name!r} is a link or device, not a file")
        if member.size < 0:
            raise tarfile.ReadError("a file of negative size")
    if sum(member.size for member in members) > MAX_BYTES:
        raise PrepError(f"{archive}: unpacks to more than {MAX_BYTES} bytes")


def _check_compression(archive: Path) -> None:
    """Reads a gzip archive to its end, where its checksum is.

    tarfile stops without an error at a header that damage has made unreadable.
    """
    with archive.open("rb") as stream:
        if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            return
    size = 0
    with gzip.open(archive) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            if size > MAX_BYTES:
                raise PrepError(f"{archive}: unpacks to more than {MAX_BYTES} bytes")


def _read(archive: Path, wanted: list[str]) -> dict[str, bytes]:
    with _naming_damage(archive):
        _check_compression(archive)
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            _check(members, archive)
            found = {PurePosixPath(m.name).name: m for m in members if m.isfile()}
            missing = [name for name in wanted if name not in found]
            if missing:
                raise PrepError(f"{archive}: has no file {missing[0]}")
            return {name: tar.extractfile(found[name]).read() for name in wanted}


def unpack(archive: Path, wanted: list[str], folder: Path) -> dict[str, Path]:
    """Unpacks the files of these names, in whatever folder of the archive they are.

    Args:
        archive: A tar archive, compressed or not.
        wanted: File names without folders.
        folder: Where to put them; no name from the archive becomes a path.

    Returns:
        The path of each.

    Raises:
        PrepError: The archive is damaged, lacks a file, or has a member that is not safe.
    """
    contents = _read(archive, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in wanted}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths
