"""Text of one language becomes a folder that fairseq's language models train on."""

from __future__ import annotations

import json
import sys

import pytest
import sentencepiece
from bad_input_commands import ROOT
from fairseq.data import Dictionary, data_utils

sys.path.append(str(ROOT / "data-prep"))
import monolingual  # noqa: E402
from test_data_prep import failure, write  # noqa: E402


@pytest.fixture
def raw(tmp_path):
    for split, size in (("train", 60), ("more", 20), ("valid", 5), ("test", 4)):
        write(tmp_path / f"{split}.txt", [f"A dog runs home {split} {n}" for n in range(size)])
    with (tmp_path / "more.txt").open("a") as stream:
        stream.write("\n \nthe last line\n")
    return tmp_path


def options(raw, *train):
    flags = ["--out", str(raw / "out"), "--vocab-size", "60", "--workers", "1"]
    for split in ("valid", "test"):
        flags += [f"--{split}", str(raw / f"{split}.txt")]
    return [*flags, "--train", *(str(raw / f"{name}.txt") for name in train)]


def test_the_folder_is_one_of_fairseq_that_decodes_to_the_text(raw):
    assert monolingual.main(options(raw, "train", "more")) == 0
    out = raw / "out"
    words = Dictionary.load(str(out / "dict.txt"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    binary = data_utils.load_indexed_dataset(str(out / "train"), words)
    expected = (raw / "train.txt").read_text().splitlines()
    expected += (raw / "more.txt").read_text().splitlines()[:20] + ["the last line"]
    texts = [pieces.decode(words.string(line).split()) for line in binary]
    assert texts == expected
    assert (out / "text" / "train").read_text().splitlines() == expected
    made = json.loads((out / "prepared.json").read_text())
    assert made["pairs"] == {"train": 81, "valid": 5, "test": 4}
    assert made["dropped_blank_pairs"]["train"] == 2
    assert monolingual.main(options(raw, "train", "more")) == 0  # again: nothing to do


def test_a_file_that_is_not_there_is_named(raw, capsys):
    error = failure(monolingual.main, options(raw, "train", "nowhere"), capsys)
    assert error.endswith("nowhere.txt: no such file")
    assert not (raw / "out").exists()
