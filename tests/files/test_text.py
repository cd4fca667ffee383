"""Text of unknown origin: what it may not do to a terminal, a picture, a page or a table."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bad_input_commands import COMMANDS
from bad_input_files import RECORD

from neuroprune_experiments.records import evaluation_rows, markdown
from neuroprune_fairseq.files.errors import OneLineParser, refuse
from neuroprune_fairseq.files.text import csv_cell, document, markdown_cell, printable

# Clears the screen, moves back, turns the writing, ends a line in many ways, half a character.
HOSTILE = "a\x1b[2J\x9b1A\b\r\n|\u202eb\u2028\u2066\x00\x7f\udcff<i>&\\|"
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)


def test_all_that_controls_is_spelt_out_and_all_that_is_read_stays():
    assert printable("a\x1b[2Jb\u202e\udcff\n") == r"a\x1b[2Jb\u202e\udcff\n"
    for text in ("Sätze 日本語 ✓ 👩\u200d🔬 می\u200cخواهم", "1\xa0000", "a\\x1b"):
        assert printable(text) == text
    assert not FORBIDDEN.search(printable("".join(map(chr, range(0x110000)))))


def test_a_document_keeps_its_lines_only():
    assert document("<a>\n\t\x1b\r</a>") == "<a>\n\t\\x1b\\r</a>"


def cells(line: str) -> list[str]:
    """The cells of a row as GitHub's Markdown splits them: a backslash takes what follows it."""
    found = re.findall(r"((?:\\.|[^|\\])*)\|", line.removeprefix("|"))
    return [re.sub(r"\\([|\\])", r"\1", cell).strip() for cell in found]


@pytest.mark.parametrize("label", ["a|b", r"a\|b", r"a\\|b", "a\nb", "| --- |", "a\r\n|c"])
def test_a_label_stays_one_cell_of_one_row(label):
    table = markdown(evaluation_rows([{**RECORD, "label": label}, {**RECORD, "label": "plain"}]))
    rows = table.split("\n")
    assert len(rows) == 4
    assert {len(cells(row)) for row in rows} == {9}
    assert cells(rows[2])[0] == printable(label)
    assert cells(rows[2])[1] == "30.00"
    assert markdown_cell("C:\\runs") == "C:\\runs"


@pytest.mark.parametrize("cell", ['=HYPERLINK("x")', "+1", "-1+cmd", "@SUM(1)", " =1", "＝1"])
def test_text_never_becomes_a_formula(cell):
    assert csv_cell(cell) == f"'{printable(cell)}"
    assert csv_cell("\t=1") == "\\t=1"
    for harmless in (-1.5, 3, "a=b", "1-2", ""):
        assert csv_cell(harmless) == harmless


def test_messages_are_one_line_without_controls(capsys):
    with pytest.raises(SystemExit) as left:
        refuse(f"{HOSTILE}: no such file")
    assert not FORBIDDEN.search(left.value.code) and "\n" not in left.value.code
    with pytest.raises(SystemExit):
        OneLineParser(prog="x").parse_args([HOSTILE])
    message = capsys.readouterr().err
    assert not FORBIDDEN.search(message.rstrip("\n")) and message.count("\n") == 1


@pytest.fixture
def hostile_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    label = HOSTILE.replace("\udcff", "")  # which no results file can hold
    records = [
        {**RECORD, "label": label, "method": label, "settings": {"x": f"=1{label}"}},
        {**RECORD, "label": "=HYPERLINK(1)", "method": "=HYPERLINK(1)", "heads_kept": 2},
    ]
    Path("r.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return tmp_path


def run(command: str, *arguments: str) -> None:
    try:
        COMMANDS[command](list(arguments))
    except SystemExit as left:
        assert not left.code, left.code


def assert_harmless(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not FORBIDDEN.search(text), path
    ElementTree.fromstring(text)


def test_the_table_and_its_picture_of_hostile_labels_are_harmless(hostile_results, capsys):
    run("table", "--results", "r.jsonl", "--picture", "picture")
    assert not FORBIDDEN.search(capsys.readouterr().out)
    assert_harmless(hostile_results / "picture.svg")


def test_a_frontier_of_hostile_methods_is_harmless(hostile_results, capsys):
    run("frontier", "table", "r.jsonl")
    run("frontier", "plot", "r.jsonl", "--out", "front")
    assert not FORBIDDEN.search(capsys.readouterr().out)
    assert_harmless(hostile_results / "front.svg")
    text = (hostile_results / "front.csv").read_text(encoding="utf-8")
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        assert not any(cell.lstrip().startswith(("=", "+", "@")) for cell in row)
        assert not FORBIDDEN.search("".join(row))


def test_a_report_of_hostile_labels_is_harmless(hostile_results, checkpoints, monkeypatch):
    arguments = [str(checkpoints.pruned), "--labels", HOSTILE, "--results", "r.jsonl"]
    run("neuroprune-report", *arguments, "--out", "out")
    assert_harmless(hostile_results / "out" / "index.html")
    svgs = list((hostile_results / "out").glob("*.svg"))
    assert svgs
    for svg in svgs:
        assert_harmless(svg)


def test_a_save_dir_whose_name_is_no_utf8_gets_a_report(checkpoints, tmp_path):
    folder = tmp_path / "run-\udcff"
    folder.mkdir()
    shutil.copy(checkpoints.pruned, folder / "checkpoint_last.pt")
    run("neuroprune-report", str(folder / "checkpoint_last.pt"), "--out", str(tmp_path / "out"))
    with_run = [str(checkpoints.pruned), "--run", str(folder), "--out", str(tmp_path / "more")]
    (folder / "neuroprune.jsonl").write_text('{"epoch": 1, "heads_kept": 3}\n')
    run("neuroprune-report", *with_run)
    assert r"run-\udcff" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
