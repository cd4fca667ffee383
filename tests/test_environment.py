"""environment.sh: how the Python environment is found or made, with stand-ins for Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
    for name in ("setup.py", "constraints.txt"):
        (folder / name).write_text("1\n")
    write_program(tmp_path / "bin" / "python3.11", "#!/bin/sh\necho 'a shim' >&2\nexit 127\n")
    python = f"""#!/usr/bin/env bash
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"pip install"*) echo install >>"{tmp_path}/log"; sleep 0.3; [ ! -e "{tmp_path}/fail" ] ;;
  *"pip --version"*) [[ $0 = *.venv* ]] ;;
esac
"""
    write_program(tmp_path / "bin" / "python3.12", python)
    command = ["bash", "-euo", "pipefail", "-c", 'source "$0"; echo "$PYTHON"']
    command += [str(folder / "scripts" / "environment.sh")]
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}

    def start():
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    start.folder = folder
    return start


def installations(tmp_path) -> int:
    path = tmp_path / "log"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_the_environment_is_made_once_by_the_first_python_that_really_runs(checkout, tmp_path):
    for _ in range(2):
        process = checkout()
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert output == f"{checkout.folder}/.venv/bin/python\n"
    assert installations(tmp_path) == 1


def test_changed_constraints_are_installed(checkout, tmp_path):
    checkout().communicate()
    (checkout.folder / "constraints.txt").write_text("2\n")
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
