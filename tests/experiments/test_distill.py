"""scripts/distill.sh: a corpus with a teacher's translations, whole or not at all, resumable."""

from __future__ import annotations

import json
import shutil

import pytest
from fairseq.data import Dictionary, data_utils

from neuroprune_experiments.distill import command, translations
from neuroprune_experiments.engine import read_sources

SIZE = 120  # sentences of the corpus


@pytest.fixture
def data(corpus, tmp_path):
    """The tiny corpus as scripts/prepare.sh leaves one."""
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    (folder / "text").mkdir()
    for language in ("de", "en"):
        for part in ("train", "valid", "test"):
            text = (corpus.parent / f"{part}.{language}").read_text(encoding="utf-8")
            (folder / "text" / f"{part}.{language}").write_text(text, encoding="utf-8")
    record = {"settings": {"corpus": "tiny"}, "pairs": {"train": SIZE, "test": 20}, "pieces": 30}
    (folder / "prepared.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def parrot(monkeypatch):
    """In place of fairseq-generate, a teacher that repeats the source; notes how it was asked."""
    calls = []

    def generate(checkpoints, data, settings, output, sentences):
        sources = read_sources(data, settings.subset)
        assert len(sources) == sentences
        calls.append((checkpoints, settings, sources))
        lines = [f"H-{n}\t-1\t{' '.join(words)}\n" for n, words in enumerate(sources)]
        output.write_text("".join(reversed(lines)), encoding="utf-8")

    monkeypatch.setattr(translations, "generate", generate)
    monkeypatch.setattr(translations, "_export", lambda *_: False)
    monkeypatch.setattr(translations, "CHUNK", 50)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return calls


def distill(data, checkpoint, out, *flags):
    arguments = ["--data", data, "--checkpoint", checkpoint, "--out", out, "--workers", 2, *flags]
    command.main([*map(str, arguments)])


def sentences(data, language, part="train"):
    """A side of a binarised text, as words."""
    dictionary = Dictionary.load(str(data / f"dict.{language}.txt"))
    stem = data / f"{part}.de-en.{language}"
    found = data_utils.load_indexed_dataset(str(stem), dictionary)
    assert all(each[-1] == dictionary.eos() for each in found)
    return [" ".join(dictionary[i] for i in each[:-1]) for each in found]


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_targets_are_the_teachers_and_all_else_is_the_old_corpus(
    data, checkpoints, parrot, tmp_path
):
    distill(data, checkpoints.dense, tmp_path / "new", "--beam", 3)
    sources = sentences(data, "de")
    assert len(sources) == SIZE
    assert sentences(tmp_path / "new", "de") == sentences(tmp_path / "new", "en") == sources
    old, new = content(data), content(tmp_path / "new")
    assert old.keys() == new.keys()
    training = ("train.", "prepared.json")
    assert all(new[p] == old[p] for p in old if not p.name.startswith(training))
    text = (tmp_path / "new" / "text" / "train.en").read_text().splitlines()
    assert text == sources == (data / "text" / "train.de").read_text().splitlines()
    assert sorted(len(call[2]) for call in parrot) == [20, 50, 50]
    assert {call[1].beam for call in parrot} == {3}
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_it_is_recorded_how_the_corpus_was_made(data, checkpoints, parrot, tmp_path):
    distill(data, checkpoints.dense, tmp_path / "new")
    record = json.loads((tmp_path / "new" / "prepared.json").read_text())
    assert record["settings"]["corpus"] == "tiny" and record["pieces"] == 30
    made = record["settings"]["distilled"]
    assert made["beam"] == 5 and made["joined"] is False
    names = [name for file in made["files"] for name in file]
    assert names == ["dense.pt", "train.de-en.de.bin", "dict.de.txt", "dict.en.txt"]
    assert record["pairs"] == {"train": SIZE, "test": 20}
    assert record["notes"]["translated_by"].startswith("fairseq-generate ")


def test_joined_the_old_pairs_stand_before_the_new_ones(data, checkpoints, parrot, tmp_path):
    distill(data, checkpoints.dense, tmp_path / "new", "--join")
    sources, targets = sentences(data, "de"), sentences(data, "en")
    assert sentences(tmp_path / "new", "de") == sources * 2
    assert sentences(tmp_path / "new", "en") == targets + sources
    assert (tmp_path / "new" / "text" / "train.en").read_text().splitlines() == targets + sources


def test_pairs_with_a_blank_translation_are_left_out(
    data, checkpoints, parrot, tmp_path, monkeypatch
):
    read = translations.read_hypotheses
    monkeypatch.setattr(
        translations, "read_hypotheses", lambda output: ["", *read(output)[1:-1], "\u2581"]
    )
    distill(data, checkpoints.dense, tmp_path / "new")
    blank = {0, 49, 50, 99, 100, 119}  # the first and last of every chunk
    expected = [s for i, s in enumerate(sentences(data, "de")) if i not in blank]
    assert sentences(tmp_path / "new", "de") == sentences(tmp_path / "new", "en") == expected
    record = json.loads((tmp_path / "new" / "prepared.json").read_text())
    assert record["pairs"]["train"] == 114 and record["dropped_blank_pairs"]["train"] == 6


def test_an_interrupted_command_goes_on_with_the_chunks_that_are_left(
    data, checkpoints, parrot, tmp_path, monkeypatch
):
    generate = translations.generate

    def fail(checkpoints, data, settings, *rest):
        if settings.subset == "part1":
            raise KeyboardInterrupt
        generate(checkpoints, data, settings, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(translations, "generate", fail)
        with pytest.raises(SystemExit, match="interrupted; the same command goes on"):
            distill(data, checkpoints.dense, tmp_path / "new", "--workers", 1)
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit, match="new.chunks holds translations of another command"):
        distill(data, checkpoints.dense, tmp_path / "new", "--beam", 4)
    assert 1 <= len(parrot) < 3
    distill(data, checkpoints.dense, tmp_path / "new")
    assert len(parrot) == 3, "no chunk is translated twice"
    assert sentences(tmp_path / "new", "en") == sentences(data, "de")


def test_what_is_made_stays_as_it_is(data, checkpoints, parrot, tmp_path, capsys):
    distill(data, checkpoints.dense, tmp_path / "new")
    before = content(tmp_path / "new")
    distill(data, checkpoints.dense, tmp_path / "new")
    assert "already made" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists and is not what this command makes"):
        distill(data, checkpoints.dense, tmp_path / "new", "--join")
    assert content(tmp_path / "new") == before and len(parrot) == 3


def test_an_ensemble_goes_to_fairseq_generate_as_it_wants_it(data, checkpoints, parrot, tmp_path):
    both = f"{checkpoints.dense}:{checkpoints.small}"
    distill(data, both, tmp_path / "new")
    assert {call[0] for call in parrot} == {both}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["CTranslate2", "fairseq-generate"])
def test_both_engines_write_the_translations_of_fairseq(
    data, checkpoints, tmp_path, monkeypatch, engine
):
    pytest.importorskip("ctranslate2")
    monkeypatch.setattr(translations, "CHUNK", 60)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if engine == "fairseq-generate":
        monkeypatch.setattr(translations, "_export", lambda *_: False)
    distill(data, checkpoints.dense, tmp_path / "new", "--beam", 2)
    record = json.loads((tmp_path / "new" / "prepared.json").read_text())
    assert record["notes"]["translated_by"].startswith(engine)
    output = tmp_path / "all.txt"
    settings = translations.GenerationSettings("train", 2, flags=("--post-process", "none"))
    translations.generate(checkpoints.dense, data, settings, output)
    expected = [line for line in translations.read_hypotheses(output) if line]
    found = sentences(tmp_path / "new", "en")
    assert len(found) == len(expected)
    assert sum(a == b for a, b in zip(found, expected)) >= 0.99 * len(expected)
