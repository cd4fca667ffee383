"""Files and folders that are there as a whole or not at all, whenever the process is killed.

What is written is made in a hidden folder beside its place, ``.NAME.XXXXXXXX.neuroprune``, and
renamed at the end. The folder holds a lock file, locked while its process lives, on whatever
machine: who can lock it knows that its owner is dead, and removes what that has left behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".neuroprune"
LOCK = "lock"
OLD = "old"  # what a folder was replaced by is beside it under this name
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def _take_lock(folder: Path, flags: int = 0) -> int:
    """Lock a working folder for this process.

    Raises:
        OSError: BlockingIOError where another process holds it, FileNotFoundError where there
            is none or it has been removed meanwhile, others where there are no locks.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_ours(folder: Path) -> bool:
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes left in a folder; what living ones work on stays.

    A folder that was moved away to be replaced, and was not, gets its name back.

    Args:
        folder: where results are written.
    """
    for left in Path(folder).glob(f".*{SUFFIX}"):
        with suppress(OSError):  # another process may clean up, too
            if _is_ours(left):
                _remove_leftover(left)


def _remove_leftover(left: Path) -> None:
    with suppress(OSError):  # a process that was killed at its very start left an empty one
        left.rmdir()
        return
    descriptor = _take_lock(left)
    try:
        for old in (left / OLD).glob("*"):
            if not os.path.lexists(left.parent / old.name):
                os.rename(old, left.parent / old.name)
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(descriptor)


def _make_locked(folder: str | Path, name: str) -> tuple[Path, int | None]:
    """A new working folder and its lock; another process may take it for a dead one's at first."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=f".{name[:50]}.", suffix=SUFFIX, dir=folder))
        try:
            return made, _take_lock(made, os.O_CREAT)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:  # a file system without locks, where nobody can take it for that
            return made, None


@contextmanager
def working_folder(folder: str | Path, name: str) -> Iterator[Path]:
    """A new folder inside ``folder`` that is gone at the end, or, after a kill, at the next start.

    Args:
        folder: an existing folder.
        name: part of the new one's name.

    Raises:
        OSError: it cannot be made.
    """
    remove_leftovers(folder)
    made, descriptor = _make_locked(folder, name)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name to write to, a file or a folder; it gets its name at the end.

    After an error nothing is left of it, and what had that name before is as it was.

    Args:
        path: of the result, in an existing folder. A folder takes the place of a folder in one
            step where the system can; else a kill in between is made good at the next start.

    Raises:
        OSError: it cannot be made or renamed.
    """
    path = Path(path)
    with working_folder(path.parent, path.name) as folder:
        temporary = folder / path.name
        yield temporary
        if temporary.is_dir() and path.is_dir():
            _replace_folder(temporary, path)
        else:
            os.replace(temporary, path)


def _replace_folder(new: Path, path: Path) -> None:
    """Put a folder in another one's place, which stays in a working folder that goes."""
    if _exchange(new, path):
        return
    old = new.parent / OLD / path.name
    old.parent.mkdir()
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
