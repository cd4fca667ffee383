"""What a process that is killed leaves: nothing half-written, nothing lost, no debris for long."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuroprune_fairseq.files import atomic
from neuroprune_fairseq.files.atomic import remove_leftovers, replacing, working_folder


def killed(work, *arguments) -> None:
    """Run ``work`` in a process that must be killed before it ends."""
    child = os.fork()
    if not child:
        try:
            work(*arguments)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_this(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(path: Path, text: str, interrupt=lambda: None) -> None:
    """Write a file, or a folder with a file in it where the name has no suffix."""
    with replacing(path) as temporary:
        if not path.suffix:
            temporary.mkdir()
            temporary = temporary / "model.bin"
        temporary.write_text(text)
        interrupt()


def content(path: Path) -> str:
    return (path if path.suffix else path / "model.bin").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """A system that can exchange two names in one step, and one that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    return request.param


@pytest.mark.parametrize("name", ["model.pt", "model", "a [b]* ü.pt", "n" * 240])
def test_a_kill_while_writing_leaves_the_old_one_and_the_next_run_cleans_up(tmp_path, way, name):
    path = tmp_path / name
    write(path, "old")
    killed(write, path, "new", kill_this)
    assert content(path) == "old"
    assert len(names(tmp_path)) == 2
    write(path, "newer")
    assert content(path) == "newer"
    assert names(tmp_path) == [name]


def test_a_kill_when_the_old_folder_has_been_moved_away_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    path, rename = tmp_path / "model", os.rename
    write(path, "old")

    def second_rename_kills(one, other):
        if Path(other) == path:
            kill_this()
        rename(one, other)

    monkeypatch.setattr(os, "rename", second_rename_kills)
    killed(write, path, "new")
    monkeypatch.setattr(os, "rename", rename)
    assert not path.exists()
    remove_leftovers(tmp_path)
    assert content(path) == "old"
    assert names(tmp_path) == ["model"]


def test_a_kill_right_after_the_exchange_leaves_the_new_folder(tmp_path, monkeypatch, way):
    path = tmp_path / "model"
    write(path, "old")
    monkeypatch.setattr(atomic.shutil, "rmtree", kill_this)
    killed(write, path, "new")
    monkeypatch.undo()
    assert content(path) == "new"
    remove_leftovers(tmp_path)
    assert (content(path), names(tmp_path)) == ("new", ["model"])


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="exchanging needs Linux")
def test_a_folder_is_there_at_every_moment_in_which_it_is_replaced(tmp_path):
    path, missing, done = tmp_path / "model", [], threading.Event()
    write(path, "0")

    def look():
        while not done.is_set():
            if not path.exists():
                missing.append(True)

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(200):
        write(path, str(number))
    done.set()
    looking.join()
    assert not missing


def test_an_error_leaves_the_old_one_and_no_debris(tmp_path, way):
    for name in ("model", "model.pt"):
        write(tmp_path / name, "old")
        with pytest.raises(OSError, match="full"):
            write(tmp_path / name, "new", lambda: (_ for _ in ()).throw(OSError("full")))
        assert content(tmp_path / name) == "old"
    assert names(tmp_path) == ["model", "model.pt"]


def test_a_folder_that_cannot_be_put_there_leaves_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    path, rename = tmp_path / "model", os.rename
    write(path, "old")

    def fails(one, other):
        if Path(one).name == "model" and Path(other) == path and Path(one).parent.name != "old":
            raise OSError("cannot")
        rename(one, other)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="cannot"):
        write(path, "new")
    assert (content(path), names(tmp_path)) == ("old", ["model"])


@contextmanager
def a_living_process_works_in(folder: Path):
    read, send = os.pipe()
    child = os.fork()
    if not child:
        with working_folder(folder, "theirs"):
            os.write(send, b"!")
            signal.pause()
    os.read(read, 1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_a_living_process_works_on_stays(tmp_path):
    with a_living_process_works_in(tmp_path):
        (theirs,) = names(tmp_path)
        write(tmp_path / "mine.pt", "x")
        assert names(tmp_path) == [theirs, "mine.pt"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["mine.pt"]


def test_folders_that_only_look_like_ours_stay(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "old").mkdir(parents=True)
    (elsewhere / "old" / "thesis.tex").write_text("mine")
    (elsewhere / "lock").touch()
    here = tmp_path / "here"
    here.mkdir()
    (here / ".link.neuroprune").symlink_to(elsewhere)
    (here / ".notes.neuroprune").mkdir()
    (here / ".notes.neuroprune" / "thesis.tex").write_text("no lock file is here")
    (here / ".file.neuroprune").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    remove_leftovers(here)
    assert sorted(tmp_path.rglob("*")) == before


def test_where_a_file_system_has_no_locks_nothing_is_removed(tmp_path, monkeypatch):
    killed(write, tmp_path / "a.pt", "x", kill_this)

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write(tmp_path / "b.pt", "y")
    assert content(tmp_path / "b.pt") == "y"
    assert len(names(tmp_path)) == 2


def test_many_processes_that_write_one_file_at_once_all_end_well(tmp_path):
    children = []
    for number in range(8):
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(30):
                    write(tmp_path / "model.pt", str(number) * 1000)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert len(set(content(tmp_path / "model.pt"))) == 1
    assert names(tmp_path) == ["model.pt"]
