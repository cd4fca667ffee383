"""Bad input, over every command and script: one line, a non-zero exit, and no file touched."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("ctranslate2")
from bad_input_cases import CASES
from bad_input_commands import outcome
from bad_input_files import listing, make_files, remove, training_in


@pytest.fixture(scope="module")
def files(corpus, tmp_path_factory):
    """The folder of files; in 'taken' a training runs, 'done' holds another command's results."""
    folder = tmp_path_factory.mktemp("files")
    make_files(folder, corpus)
    for name in ("taken", "done"):
        (folder / name).mkdir()
        (folder / name / "command.txt").write_text("fairseq-train other\n")
    (folder / "done" / "checkpoint_best.pt").write_text("precious")
    with training_in(folder / "taken"):
        yield folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command} {case.arguments}"[:60])
def test_bad_input_ends_in_one_line_and_leaves_every_file_alone(files, monkeypatch, capsys, case):
    monkeypatch.chdir(files)
    before = listing(files)
    capsys.readouterr()
    try:
        failed, said = outcome(case.command, case.arguments.format(here=files), case.disk)
    finally:
        after = listing(files)
        remove(files, after.keys() - before.keys())
    output, errors = capsys.readouterr()
    assert failed
    assert "Traceback" not in output + errors
    # How far a preparation or timing has come, and fairseq's search for a NaN, stand before it.
    before_it = ("[", "models: ", "timings: ", "WARNING:fairseq.nan_detector")
    lines = [line for line in (errors + said).splitlines() if line]
    lines = [line for line in lines if not line.startswith(before_it)]
    assert len(lines) == 1, lines
    assert re.search(case.says, lines[0])
    assert "error: " in lines[0]
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after if path not in before and not re.fullmatch(case.new, path)]
