"""The folder a preparation makes: nothing, or all of it with its settings, never a part.

All is built in a hidden sibling and renamed at the end. The sibling is locked while its
process lives, so the next run can tell what a killed run left behind and remove it.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import PrepError

SETTINGS_FILE = "prepared.json"


def is_prepared(out: Path, settings: dict, inputs: dict[str, str]) -> bool:
    """Whether `out` already holds exactly this.

    Args:
        out: The output folder.
        settings: What the result depends on.
        inputs: SHA-256 sums of the files given; empty where they would be downloaded.

    Raises:
        PrepError: `out` holds something else, which nobody asked to overwrite.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        made = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
        old_settings, old_inputs = made["settings"], made["inputs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrepError(
            f"--out {out}: exists and was not made by this preparation; name a new folder"
        ) from error
    for key in sorted(settings.keys() | old_settings.keys()):
        old, new = old_settings.get(key), settings.get(key)
        if old != new:
            raise PrepError(
                f"--out {out}: was prepared with {key} = {old}, not {new}; "
                "name a new folder or remove this one"
            )
    changed = [name for name, digest in inputs.items() if old_inputs.get(name) != digest]
    if changed:
        raise PrepError(
            f"--out {out}: was prepared from another {changed[0]}; "
            "name a new folder or remove this one"
        )
    return True


def _lock(folder: Path) -> int | None:
    """Locks a folder for this process; None where another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def remove_stale(out: Path) -> None:
    """Removes the unfinished siblings of `out` that no living process holds."""
    for sibling in out.parent.glob(f".{glob.escape(out.name)}.preparing-*"):
        descriptor = _lock(sibling)
        if descriptor is not None:
            shutil.rmtree(sibling, ignore_errors=True)
            os.close(descriptor)


def _make_parents(folder: Path) -> list[Path]:
    """Makes `folder`; returns what had to be made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Yields a folder to build in; on success it becomes `out`, on failure it is removed.

    Raises:
        PrepError: The place of `out` cannot be written, or `out` has appeared meanwhile.
    """
    made: list[Path] = []
    try:
        made = _make_parents(out.parent)
        remove_stale(out)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.preparing-", dir=out.parent))
    except OSError as error:
        _remove_empty(made)
        raise PrepError(f"--out {out}: cannot be written there ({error.strerror})") from error
    descriptor = _lock(folder)
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's folders are for their owner only
        _rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _rename(folder: Path, out: Path) -> None:
    try:
        folder.rename(out)
    except OSError as error:
        message = f"--out {out}: cannot be put there ({error.strerror}); name a new folder"
        raise PrepError(message) from error


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
