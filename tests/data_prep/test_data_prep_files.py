"""Files of data preparation: lines, the output folder, downloads, and scripts/prepare.sh."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA_PREP = ROOT / "data-prep"
sys.path.append(str(DATA_PREP))

import binarise  # noqa: E402
import output_folder  # noqa: E402
import toy  # noqa: E402
from download import download  # noqa: E402
from errors import PrepError  # noqa: E402
from parallel_text import pair_up, read_lines  # noqa: E402


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_preprocess(monkeypatch):
    """Spares a test the seconds that fairseq-preprocess takes to start."""
    monkeypatch.setattr(binarise, "_run_fairseq_preprocess", lambda *_: None)


def test_pairs_with_a_blank_side_are_left_out_on_both_sides_and_counted():
    pairs = pair_up(["a", " ", "c", "d"], ["1", "2", "", "4"], ("x", "y"))
    assert (pairs.source, pairs.target, pairs.dropped) == (["a", "d"], ["1", "4"], 2)


def test_only_line_feeds_end_lines_and_a_byte_order_mark_is_taken_off(tmp_path):
    path = tmp_path / "lines.de"
    path.write_bytes("\ufeffeins\r\nzw\u2028ei\x0bdrei\x85\n".encode())
    assert read_lines(path) == ["eins", "zw ei drei "]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_that_looks_finished_and_the_next_one_cleans_up(
    tmp_path, no_preprocess, how
):
    command = [sys.executable, str(DATA_PREP / "toy.py"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, "--train-pairs", "4000"],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while "[2/3]" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(how)
        message = process.stderr.read()
    assert process.returncode != 0
    assert "Traceback" not in message
    killed = how == signal.SIGKILL
    assert len(left_in(tmp_path)) == int(killed)
    assert not (tmp_path / "out").exists()
    sizes = ["--train-pairs", "200", "--valid-pairs", "2", "--test-pairs", "2"]
    assert toy.main(["--out", str(tmp_path / "out"), "--vocab-size", "150", *sizes]) == 0
    assert left_in(tmp_path) == ["out"]


def test_the_unfinished_folder_of_a_living_run_is_left_alone(tmp_path):
    living, dead = (tmp_path / f".out[1].preparing-{name}" for name in ("living", "dead"))
    living.mkdir()
    dead.mkdir()
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    output_folder.remove_stale(tmp_path / "out[1]")
    os.close(descriptor)
    assert left_in(tmp_path) == [living.name]


def test_an_out_that_appears_meanwhile_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(PrepError, match="name a new folder"), output_folder.building(out):
        out.mkdir()
        (out / "mine").touch()
    assert left_in(tmp_path) == ["out"]
    assert left_in(out) == ["mine"]


def test_download_tries_every_home_checks_the_sum_and_leaves_no_part(tmp_path, capsys):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"text")
    bad.write_bytes(b"page not found")
    expected = hashlib.sha256(b"text").hexdigest()
    homes = tuple(path.as_uri() for path in (tmp_path / "none", bad, good))
    path = download(homes, tmp_path / "got/file", expected)
    assert path.read_bytes() == b"text"
    assert left_in(tmp_path / "got") == ["file"]
    with pytest.raises(PrepError, match=r"cannot download other .*; or by hand"):
        download(homes[:2], tmp_path / "got/other", expected, "; or by hand")
    assert left_in(tmp_path / "got") == ["file"]
    download(homes[2:], tmp_path / "got/third")
    assert f"SHA-256 {expected} (no published sum" in capsys.readouterr().err


def test_prepare_script_runs_a_corpus_with_the_interpreter_that_is_named(tmp_path):
    sizes = ["--train-pairs", "300", "--valid-pairs", "3", "--test-pairs", "4"]
    command = ["bash", str(ROOT / "scripts/prepare.sh"), "--out", "toy", "--corpus", "toy", *sizes]
    environment = {**os.environ, "NEUROPRUNE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--vocab-size", "200"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_lines(tmp_path / "toy/text/test.en")) == 4
    assert (tmp_path / "toy/train.de-en.de.bin").stat().st_size > 0


def test_prepare_script_has_help():
    command = ["bash", str(ROOT / "scripts/prepare.sh"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--corpus toy|multi30k|iwslt14|text" in done.stdout
