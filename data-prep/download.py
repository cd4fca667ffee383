"""Downloads with several homes, a checksum, and no half-written file under the final name."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import limits
from errors import PrepError
from tqdm import tqdm

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 16


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, as lower-case hexadecimal digits.

    Raises:
        PrepError: It cannot be read.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError as error:
        raise PrepError(f"{path}: cannot be read ({error.strerror})") from error


def _fetch(url: str, partial: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "data-prep"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        bar = tqdm(total=total or None, unit="B", unit_scale=True, desc=partial.stem, disable=None)
        with partial.open("wb") as stream, bar:
            while chunk := answer.read(CHUNK_BYTES):
                stream.write(chunk)
                bar.update(len(chunk))
                if stream.tell() > limits.MAX_BYTES:
                    raise PrepError(f"{url}: more than {limits.MAX_BYTES:,} bytes")
    # A connection that breaks off early reads like the end of the file.
    if total and partial.stat().st_size != total:
        raise PrepError(f"{url}: got {partial.stat().st_size} of {total} bytes")


def download(urls: tuple[str, ...], path: Path, expected: str = "", otherwise: str = "") -> Path:
    """Gets a file from the first home that has it; one that is there already is kept.

    Args:
        urls: Its homes, tried in turn.
        path: Where it shall be.
        expected: Its SHA-256 sum; where none is published, the sum found is printed.
        otherwise: What the user can do instead, for the message.

    Returns:
        `path`.

    Raises:
        PrepError: No home gives it with that sum.
    """
    if path.is_file() and (not expected or sha256(path) == expected):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    failures = []
    for url in urls:
        try:
            _fetch(url, partial)
            found = sha256(partial)
            if expected and found != expected:
                raise PrepError(f"{url}: SHA-256 is {found}, not {expected}")
            if not expected:
                print(f"{url}: SHA-256 {found} (no published sum to compare)", file=sys.stderr)
            return partial.rename(path)
        except (OSError, HTTPException, ValueError, PrepError) as error:
            failures.append(str(error) if url in str(error) else f"{url}: {error}")
        finally:
            partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # only where nothing is in it
    raise PrepError(f"cannot download {path.name} ({'; '.join(failures)}){otherwise}")
