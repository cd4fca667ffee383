"""Small files that unpack to huge ones, texts without line feeds: refused with little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "data-prep"))

import iwslt14  # noqa: E402
import limits  # noqa: E402
from archive import unpack  # noqa: E402
from download import download  # noqa: E402
from errors import PrepError  # noqa: E402
from parallel_text import read_lines  # noqa: E402

PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "plain": bytes}
MEGABYTE = 1024**2


def tar_of(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@contextmanager
def at_most(megabytes: int):
    """Within it Python holds no more than so many megabytes at once."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < megabytes * MEGABYTE


@pytest.mark.parametrize("kind", PACK)
def test_an_archive_of_any_kind_is_unpacked_up_to_the_limit(tmp_path, monkeypatch, kind):
    whole = tar_of(("a", b"text"), ("b", bytes(MEGABYTE)))
    archive = tmp_path / "archive"
    archive.write_bytes(PACK[kind](whole))
    monkeypatch.setattr(limits, "MAX_BYTES", len(whole))
    assert unpack(archive, ["a"], tmp_path / "out")["a"].read_bytes() == b"text"
    monkeypatch.setattr(limits, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(PrepError, match=rf"archive: unpacks to more than {len(whole) - 1:,} bytes"):
        unpack(archive, ["a"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, kind):
    archive = tmp_path / "archive"
    archive.write_bytes(PACK[kind](bytes(32 * MEGABYTE)) * 1000)  # many streams are one file
    assert archive.stat().st_size < 6 * MEGABYTE
    monkeypatch.setattr(limits, "MAX_BYTES", 40 * MEGABYTE)
    with at_most(20), pytest.raises(PrepError, match="unpacks to more than"):
        unpack(archive, ["a"], tmp_path / "out")


@pytest.mark.parametrize("header", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_many_megabytes_is_refused_unread(tmp_path, header):
    member = tarfile.TarInfo("name")
    member.type, member.size = header, 64 * MEGABYTE
    archive = tmp_path / "archive"
    archive.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(64 * MEGABYTE)))
    with at_most(20), pytest.raises(PrepError, match=r"archive: has a header of [\d,]+ bytes"):
        unpack(archive, ["a"], tmp_path / "out")


def test_an_archive_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_MEMBERS", 3)
    archive = tmp_path / "archive"
    archive.write_bytes(tar_of(*((str(number), b"") for number in range(4))))
    with pytest.raises(PrepError, match="archive: has more than 3 members"):
        unpack(archive, ["0"], tmp_path / "out")


def test_a_packed_text_of_one_endless_line_is_refused_with_little_memory(tmp_path):
    path = tmp_path / "text.de.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(b"a" * MEGABYTE)
    refused = r"text\.de\.gz: line 1 is longer than 1,048,576 bytes"
    with at_most(10), pytest.raises(PrepError, match=refused):
        read_lines(path)


@pytest.mark.parametrize("name", ["text.de", "text.de.gz"])
def test_texts_are_read_up_to_the_limits(tmp_path, monkeypatch, name):
    path = tmp_path / name
    text = b"eins\n" * 9 + b"zwei" + b"!" * 6 + b"\n"  # 10 lines, 56 bytes, the longest has 11
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    exact = {"MAX_BYTES": 56, "MAX_LINES": 10, "MAX_LINE_BYTES": 11}
    for limit, value in exact.items():
        monkeypatch.setattr(limits, limit, value)
    assert len(read_lines(path)) == 10
    for limit, value in exact.items():
        monkeypatch.setattr(limits, limit, value - 1)
        with pytest.raises(PrepError, match=f"{name}: (line 10 is longer|more than)"):
            read_lines(path)
        monkeypatch.setattr(limits, limit, value)


def test_a_download_ends_at_the_limit(tmp_path, monkeypatch):
    (tmp_path / "big").write_bytes(bytes(MEGABYTE))
    monkeypatch.setattr(limits, "MAX_BYTES", MEGABYTE - 1)
    with pytest.raises(PrepError, match="more than 1,048,575 bytes"):
        download(((tmp_path / "big").as_uri(),), tmp_path / "got" / "file")
    assert not (tmp_path / "got").exists()


def test_segments_that_never_end_take_no_longer_than_others():
    text = ['<seg id="1"> a </seg>', *['<seg id="2"> b'] * 100_000, "<seg id=3" * 100_000]
    assert iwslt14.segments(text) == ["a"]
