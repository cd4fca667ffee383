"""Unpacking a downloaded archive with nothing in it trusted."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import limits
from errors import PrepError
from limits import LimitedFile

# By the bytes that a file of each kind begins with; everything else is read as plain tar.
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


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


@contextmanager
def _unpacked(archive: Path) -> Iterator[LimitedFile]:
    """The tar file inside, read to its end once, where its checksum is.

    tarfile stops without an error at a header that damage has made unreadable.
    """
    with archive.open("rb") as stream:
        start = stream.read(max(map(len, OPENERS)))
    opener = next((OPENERS[magic] for magic in OPENERS if start.startswith(magic)), open)
    with opener(archive, "rb") as stream:
        file = LimitedFile(stream, archive)
        while file.read(limits.CHUNK_BYTES):
            pass
        file.seek(0)
        yield file


def _check(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise PrepError(f"{archive}: member {member.name!r} reaches outside its folder")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise PrepError(f"{archive}: member {member.name!r} is a link or device, not a file")
    if member.size < 0:
        raise tarfile.ReadError("a file of negative size")
    if member.size > limits.MAX_BYTES:
        raise PrepError(f"{archive}: unpacks to more than {limits.MAX_BYTES:,} bytes")


def _files(tar: tarfile.TarFile, archive: Path) -> dict[str, tarfile.TarInfo]:
    """The files of an archive by their names without folders."""
    found = {}
    for number, member in enumerate(tar, start=1):
        if number > limits.MAX_MEMBERS:
            raise PrepError(f"{archive}: has more than {limits.MAX_MEMBERS:,} members")
        _check(member, archive)
        if member.isfile():
            found[PurePosixPath(member.name).name] = member
    return found


def unpack(archive: Path, wanted: list[str], folder: Path) -> dict[str, Path]:
    """Unpacks the files of these names, in whatever folder of the archive they are.

    Args:
        archive: A tar archive, compressed (gzip, bzip2, xz) or not.
        wanted: File names without folders.
        folder: Where to put them; no name from the archive becomes a path.

    Returns:
        The path of each.

    Raises:
        PrepError: The archive is damaged, lacks a file, is too large, or has a member that is
            not safe.
    """
    paths = {name: folder / name for name in wanted}
    with (
        _naming_damage(archive),
        _unpacked(archive) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        found = _files(tar, archive)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise PrepError(f"{archive}: has no file {missing[0]}")
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            with path.open("wb") as copy:
                shutil.copyfileobj(tar.extractfile(found[name]), copy, limits.CHUNK_BYTES)
    return paths
