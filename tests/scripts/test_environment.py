"""environment.sh: how the Python environment is found or made, with stand-ins for Python."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """A checkout of scripts only, with stand-ins for Python, venv and pip on the PATH."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("environment.sh", "allocator.sh"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    for name in ("setup.py", "constraints.txt", "requirements-lock.txt"):
        (folder / name).write_text("1\n")
    write_program(tmp_path / "bin" / "python3.11", "#!/bin/sh\necho 'a shim' >&2\nexit 127\n")
    python = f"""#!/usr/bin/env bash
case "$*" in
  "-I -m venv "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *"pip install"*"--require-hashes"*)
    echo locked >>"{tmp_path}/log"; [ ! -e "{tmp_path}/forged" ] ;;
  *"pip install"*) echo install >>"{tmp_path}/log"; sleep 0.3; [ ! -e "{tmp_path}/fail" ] ;;
  *"pip --version"*) [[ $0 = *.venv* ]] ;;
esac
"""
    write_program(tmp_path / "bin" / "python3.12", python)
    command = ["bash", "-euo", "pipefail", "-c", 'source "$0"; echo "$PYTHON"']  # as make env
    command += [str(folder / "scripts" / "environment.sh")]
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "make_it": "yes"}

    def start(cwd=None, **variables):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=cwd, env={**environment, **variables}, **pipes)

    start.folder = folder
    return start


def installations(tmp_path) -> int:
    path = tmp_path / "log"
    return path.read_text().splitlines().count("install") if path.exists() else 0


def test_the_environment_is_made_once_by_the_first_python_that_really_runs(checkout, tmp_path):
    for _ in range(2):
        process = checkout()
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert output == f"{checkout.folder}/.venv/bin/python\n"
    assert installations(tmp_path) == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the lock is of another machine")
def test_a_file_with_another_hash_than_the_lock_names_ends_the_installation(checkout, tmp_path):
    (tmp_path / "forged").touch()
    process = checkout()
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "the installation into" in errors.splitlines()[-1]
    assert (tmp_path / "log").read_text() == "locked\n"


def test_a_script_that_finds_no_environment_says_how_to_make_it_and_makes_nothing(
    checkout, tmp_path
):
    process = checkout(make_it="")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "error: " in errors
    assert "'make env' makes it, or set NEUROPRUNE_PYTHON=PATH" in errors
    assert not (checkout.folder / ".venv").exists()
    checkout().communicate()
    process = checkout(make_it="")
    assert process.communicate()[0] == f"{checkout.folder}/.venv/bin/python\n"


@pytest.mark.parametrize("name", ["constraints.txt", "requirements-lock.txt"])
def test_changed_constraints_are_installed(checkout, tmp_path, name):
    checkout().communicate()
    (checkout.folder / name).write_text("2\n")
    checkout().communicate()
    assert installations(tmp_path) == 2


def test_a_failed_installation_does_not_count_as_done(checkout, tmp_path):
    (tmp_path / "fail").touch()
    process = checkout()
    output, errors = process.communicate()
    assert process.returncode == 2
    assert "the installation into" in errors.splitlines()[-1]
    (tmp_path / "fail").unlink()
    process = checkout()
    process.communicate()
    assert process.returncode == 0
    assert installations(tmp_path) == 2


def test_no_module_of_the_current_folder_is_imported(checkout, tmp_path):
    """With a real Python; what it would install does not matter, so the installation fails."""
    here = tmp_path / "downloads"
    here.mkdir()
    for name in ("venv", "ensurepip", "pip", "importlib", "numpy", "xdist", "pytest"):
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')"
        )
    base = os.path.realpath(sys.executable)
    write_program(tmp_path / "bin" / "python3.11", f'#!/bin/sh\nexec {base} "$@"\n')
    offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    _, errors = checkout(cwd=here, **offline).communicate()

    assert f"Making the environment {checkout.folder}/.venv" in errors
    assert (checkout.folder / ".venv" / "bin" / "pip").exists()
    named = checkout(cwd=here, NEUROPRUNE_PYTHON=base)
    assert named.communicate()[1] or named.returncode == 0
    assert not (tmp_path / "imported").exists()


def test_what_the_scripts_start_imports_nothing_from_the_current_folder(tmp_path):
    (tmp_path / "tqdm.py").write_text("raise SystemExit('a module of the current folder')")
    program = f'source "{ROOT}/scripts/environment.sh"; "$PYTHON" -c "import tqdm"'
    environment = {**os.environ, "NEUROPRUNE_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "-euc", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_two_scripts_that_start_at_once_install_once(checkout, tmp_path):
    processes = [checkout(), checkout()]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert installations(tmp_path) == 1


@pytest.mark.parametrize(
    ("given", "set_by_us"),
    [
        ({}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=1"}, False),
        ({"GLIBC_TUNABLES": ""}, False),
        ({"MALLOC_ARENA_MAX": "2"}, False),
        ({"LD_PRELOAD": "/nowhere/liballocator.so"}, False),
    ],
)
def test_the_allocator_keeps_memory_unless_the_user_has_set_something(given, set_by_us):
    program = f'source "{ROOT}/scripts/allocator.sh"; printf %s "${{GLIBC_TUNABLES-none}}"'
    environment = {"PATH": "/usr/bin:/bin", **given}
    process = subprocess.run(
        ["bash", "-euc", program], env=environment, capture_output=True, text=True, check=True
    )
    assert ("glibc.malloc.mmap_max=0" in process.stdout) == set_by_us
    assert set_by_us or process.stdout == given.get("GLIBC_TUNABLES", "none")
