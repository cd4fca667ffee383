"""Shared parts of data preparation: reading, errors, settings, and all-or-nothing output."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from pathlib import Path

import pytest
import sentencepiece
from fairseq.data import Dictionary, data_utils

ROOT = Path(__file__).resolve().parents[2]
DATA_PREP = ROOT / "data-prep"
sys.path.append(str(DATA_PREP))

import binarise  # noqa: E402
import multi30k  # noqa: E402
import text  # noqa: E402
from errors import PrepError  # noqa: E402

SIZES = {"train": 60, "valid": 5, "test": 5}


@pytest.fixture
def corpus(tmp_path):
    """Three splits of parallel text under raw/; German in lower case, English in upper."""
    rng = random.Random(3)
    (tmp_path / "raw").mkdir()
    for split, size in SIZES.items():
        lines = [" ".join(rng.choices("haus baum hund katze geht kommt".split(), k=4))] * size
        lines = [f"{line} {split} {number}" for number, line in enumerate(lines)]
        write(tmp_path / f"raw/{split}.de", lines)
        write(tmp_path / f"raw/{split}.en", [line.upper() for line in lines])
    return tmp_path


@pytest.fixture
def no_preprocess(monkeypatch):
    """Spares a test the seconds that fairseq-preprocess takes to start."""
    monkeypatch.setattr(binarise, "_run_fairseq_preprocess", lambda *_: None)


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def options(folder, *more, out="out", size="60"):
    flags = ["--source-lang", "de", "--target-lang", "en", "--vocab-size", size, "--workers", "1"]
    for split in SIZES:
        flags += [f"--{split}-pref", str(folder / "raw" / split)]
    return ["--out", str(folder / out), *flags, *more]


def failure(main, argv, capsys):
    """The error line of a run that fails; nothing else of it goes to standard error."""
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1
    assert lines[0].startswith("data-prep/")
    return lines[0]


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_prepared_folder_is_a_fairseq_data_folder_that_decodes_to_the_text(corpus, capsys):
    assert text.main(options(corpus)) == 0
    out = corpus / "out"
    dictionary = Dictionary.load(str(out / "dict.de.txt"))
    assert (out / "dict.de.txt").read_bytes() == (out / "dict.en.txt").read_bytes()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    for split, size in SIZES.items():
        for language in ("de", "en"):
            raw = (corpus / f"raw/{split}.{language}").read_text()
            assert (out / f"text/{split}.{language}").read_text() == raw
            data = data_utils.load_indexed_dataset(str(out / f"{split}.de-en.{language}"))
            lines = [pieces.decode(dictionary.string(data[i]).split()) for i in range(size)]
            if split == "train":
                assert lines == raw.splitlines()
    assert left_in(corpus) == ["out", "raw"]
    prepared = json.loads((out / "prepared.json").read_text())
    assert prepared["pairs"] == SIZES
    assert prepared["settings"]["vocab_size"] == 60
    train_sum = hashlib.sha256((corpus / "raw/train.de").read_bytes()).hexdigest()
    assert prepared["inputs"]["train.de"] == train_sum
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["text"]


def test_same_settings_again_change_nothing(corpus, no_preprocess, capsys):
    assert text.main(options(corpus)) == 0
    before = {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*")}
    assert text.main(options(corpus)) == 0
    assert "already prepared" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*")} == before


def test_other_settings_or_other_text_never_overwrite_a_prepared_folder(
    corpus, no_preprocess, capsys
):
    assert text.main(options(corpus)) == 0
    capsys.readouterr()
    assert "vocab_size = 60, not 61" in failure(text.main, options(corpus, size="61"), capsys)
    assert "lowercase = False" in failure(text.main, options(corpus, "--lowercase"), capsys)
    write(corpus / "raw/test.en", ["OTHER"] * 5)
    assert "from another test.en" in failure(text.main, options(corpus), capsys)
    assert json.loads((corpus / "out/prepared.json").read_text())["pieces"] > 0


def test_a_folder_of_somebody_else_is_refused_and_an_empty_one_is_used(
    corpus, no_preprocess, capsys
):
    (corpus / "out").mkdir()
    (corpus / "out/thesis.tex").touch()
    assert "not made by this preparation" in failure(text.main, options(corpus), capsys)
    assert left_in(corpus / "out") == ["thesis.tex"]
    (corpus / "empty").mkdir()
    assert text.main(options(corpus, out="empty")) == 0
    assert (corpus / "empty/prepared.json").is_file()


def test_lowercase_lowers_all_text_and_gz_files_read_like_plain_ones(corpus, no_preprocess):
    for path in sorted((corpus / "raw").iterdir()):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert text.main(options(corpus, "--lowercase")) == 0
    texts = corpus / "out/text"
    assert (texts / "train.en").read_text() == (texts / "train.de").read_text()


def test_several_texts_are_put_together_in_their_order(corpus, no_preprocess):
    raw = corpus / "raw"
    more = ["--train-pref", str(raw / "train"), str(raw / "test"), str(raw / "valid")]
    assert text.main(options(corpus, *more)) == 0
    expected = "".join((raw / f"{split}.de").read_text() for split in ("train", "test", "valid"))
    assert (corpus / "out/text/train.de").read_text() == expected
    inputs = json.loads((corpus / "out/prepared.json").read_text())["inputs"]
    sums = [hashlib.sha256((raw / f"{s}.en").read_bytes()).hexdigest() for s in ("train", "test")]
    assert [inputs["train.en"], inputs["train.1.en"]] == sums


def test_model_is_the_same_for_both_directions_and_every_run(corpus, no_preprocess):
    assert text.main(options(corpus)) == 0
    flags = options(corpus, out="back")
    flags[3], flags[5] = "en", "de"
    assert text.main(flags) == 0
    assert (corpus / "out/spm.model").read_bytes() == (corpus / "back/spm.model").read_bytes()
    # The sides are swapped, not the files' names.
    assert (corpus / "back/text/test.de").read_text() == (corpus / "raw/test.de").read_text()


def test_parents_of_out_are_made_and_go_again_when_it_fails(corpus, no_preprocess, capsys):
    write(corpus / "raw" / "train.en", ["ONE", "TWO"])
    failure(text.main, options(corpus, out="a/b/out"), capsys)
    assert left_in(corpus) == ["raw"]


def test_a_failing_fairseq_preprocess_is_reported_with_its_last_line(corpus, monkeypatch, capsys):
    script = ["bash", "-c", "echo reading >&2; echo no disk >&2; exit 3", "fairseq-preprocess"]
    monkeypatch.setattr(binarise, "_preprocess_command", lambda: script)
    line = failure(text.main, options(corpus), capsys)
    assert "fairseq-preprocess failed with status 3: no disk" in line
    assert left_in(corpus) == ["raw"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, PrepError("broken"), OSError(28, "full")])
def test_failing_at_the_end_leaves_nothing(corpus, monkeypatch, no_preprocess, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("command_line.write_json", fail)
    assert text.main(options(corpus)) in (1, 130)
    assert left_in(corpus) == ["raw"]


def test_multi30k_reads_its_folder_and_names_what_is_missing(tmp_path, no_preprocess, capsys):
    raw = tmp_path / "raw"
    assert "no such folder" in failure(multi30k.main, ["--out", "x", "--raw", str(raw)], capsys)
    raw.mkdir()
    for stem in ("train", "val", "test_2016_flickr"):
        for language in ("de", "en"):
            lines = "".join(f"{stem} {language} {number}\n" for number in range(30))
            (raw / f"{stem}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    flags = ["--out", str(tmp_path / "out"), "--raw", str(raw), "--vocab-size", "40"]
    assert multi30k.main(flags) == 0
    assert (tmp_path / "out/text/valid.en").read_text().startswith("val en 0\n")
    (raw / "val.en.gz").unlink()
    line = failure(multi30k.main, [*flags[:1], str(tmp_path / "two"), *flags[2:]], capsys)
    assert "val.en: no such file" in line
