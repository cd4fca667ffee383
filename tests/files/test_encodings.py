"""Commands on terminals of other encodings, and with names that fairseq would take apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input_commands import COMMANDS
from bad_input_files import RECORD

from neuroprune_experiments import evaluation
from neuroprune_experiments.evaluation import GenerationSettings

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "C"},
}
# Every command in one process, since each takes seconds to start.
ALL = """
import itertools, sys
from bad_input_commands import COMMANDS
for comes, words in itertools.groupby(sys.argv[1:], lambda word: word != "next"):
    command, *arguments = words
    if not comes:
        continue
    try:
        COMMANDS[command](arguments)
    except SystemExit as left:
        if left.code not in (None, 0):
            raise
"""
WORDS = "Sätze über 日本 \u2713"


@pytest.fixture
def folder(corpus, checkpoints, tmp_path):
    """A corpus, a checkpoint and results with signs that are in no 8-bit encoding."""
    data = tmp_path / "dätä"
    shutil.copytree(corpus, data)
    (data / "text").mkdir()
    (data / "text" / "test.en").write_text(f"{WORDS}\n" * 20, encoding="utf-8")
    shutil.copy(checkpoints.pruned, tmp_path / "mödel ✓.pt")
    record = {**RECORD, "label": WORDS, "method": WORDS, "settings": {"x": WORDS}}
    (tmp_path / "r.jsonl").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    for split, lines in (("train", 300), ("valid", 3), ("test", 3)):
        for language in ("xx", "yy"):
            text = "".join(f"{WORDS} {number}\n" for number in range(lines))
            (tmp_path / f"{split}.{language}").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_command_ends_over_the_encoding_of_its_terminal(folder, encoding):
    model, evaluate = "mödel ✓.pt", ["--data", "dätä", "--label", WORDS]
    corpus = ["--train-pref", "train", "--valid-pref", "valid", "--test-pref", "test"]
    corpus += ["--vocab-size", "40", "--source-lang", "xx", "--target-lang", "yy"]
    commands = [
        ["table", "--results", "r.jsonl", "--picture", "pictüre ✓"],
        ["frontier", "table", "r.jsonl"],
        ["frontier", "plot", "r.jsonl", "--out", "früntier ✓"],
        ["compact", model, "cömpact ✓.pt"],
        ["evaluate", "--checkpoint", model, *evaluate],
        ["neuroprune-report", model, "--labels", WORDS, "--out", "repört ✓"],
        ["text", "--out", "cörpus ✓", *corpus],
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **ENCODINGS[encoding]}
    # Words of a command line: in an ASCII locale their bytes come as halves of characters.
    arguments = [sys.executable, "-c", ALL, *(w for words in commands for w in ["next", *words])]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (folder / "cörpus ✓" / "prepared.json").exists()
    assert (folder / "cömpact ✓.pt").exists()
    page = (folder / "repört ✓" / "index.html").read_text(encoding="utf-8")
    results = (folder / "results.jsonl").read_text(encoding="utf-8")
    if encoding == "latin-1":
        assert WORDS in page and f'"label": "{WORDS}"' in results


def test_fairseq_translates_a_checkpoint_with_a_colon_in_its_path(
    corpus, checkpoints, folder, monkeypatch
):
    """In an ASCII locale, too: fairseq itself prints the translations there."""
    for name, value in ENCODINGS["ascii"].items():
        monkeypatch.setenv(name, value)
    run = folder / "12:30"
    run.mkdir()
    shutil.copy(checkpoints.pruned, run / "checkpoint_last.pt")
    settings = GenerationSettings(flags=("--cpu", "--max-len-b", "5"), beam=1)

    [record] = evaluation.evaluate(run / "checkpoint_last.pt", folder / "dätä", [settings])

    assert record["checkpoint"] == str(run / "checkpoint_last.pt")
    assert [path.suffix for path in run.iterdir()].count(".txt") == 1


def test_a_corpus_with_a_colon_in_its_path_is_refused_in_one_line(folder):
    (folder / "12:30").mkdir()
    (folder / "dätä").rename(folder / "12:30" / "data")
    with pytest.raises(SystemExit, match="12:30/data: fairseq splits names at ':'; name a link"):
        arguments = ["--checkpoint", str(folder / "mödel ✓.pt")]
        COMMANDS["evaluate"]([*arguments, "--data", str(folder / "12:30" / "data")])
