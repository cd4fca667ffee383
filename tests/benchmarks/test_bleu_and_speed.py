"""benchmarks/bleu_and_speed.py: turns, ratios, lists of models, and a whole run on tiny models."""

from __future__ import annotations

import itertools
import json
import shutil
import sys

import pytest

pytest.importorskip("ctranslate2")
from bad_input_commands import ROOT
from test_frontier import refusal

from neuroprune_experiments import evaluation
from neuroprune_experiments.comparison import (
    comparison_rows,
    ratios,
    read_comparison,
    read_models,
)

sys.path.append(str(ROOT / "benchmarks"))

import bleu_and_speed  # noqa: E402
import compared_models  # noqa: E402


def test_speed_ups_are_compared_round_by_round():
    """A slow second round hits both; the ratios are 2, 3 and 4, those of medians would be 2.5."""
    found = ratios([2.0, 9.0, 4.0], [1.0, 3.0, 1.0])
    assert found == {"speedup": 3.0, "speedup_range": [2.0, 4.0]}


def test_in_every_round_each_model_runs_once_and_another_begins():
    calls = []
    runs = {name: lambda name=name: calls.append(name) or len(calls) for name in "abcd"}
    found = bleu_and_speed.take_turns(runs, 2, "turns")
    assert calls == [*"abcd", *"cdab"]
    assert found == {"a": [1, 7], "b": [2, 8], "c": [3, 5], "d": [4, 6]}


def test_what_is_done_is_not_done_again_even_by_another_process(tmp_path):
    counter = itertools.count()
    for expected in (0, 0):
        work = compared_models.Work(tmp_path / "new" / "work")
        assert work.once({"beam": 5}, lambda: next(counter)) == expected
    assert work.once({"beam": 1}, lambda: next(counter)) == 1


@pytest.fixture
def listed(tmp_path):
    """Reads a list of models that is written to a file."""

    def read(*models):
        (tmp_path / "models.json").write_text(json.dumps(models))
        return read_models([str(tmp_path / "models.json")])

    return read


def test_a_list_of_models_is_checked_entry_by_entry(listed, tmp_path):
    (tmp_path / "a.pt").touch()
    good = {"name": "a", "checkpoint": str(tmp_path / "a.pt"), "seed": 2}
    assert listed(good) == [good]
    assert "models.2 lacks" not in refusal(listed, good, {"name": 3})
    assert "has no text in 'models.2.name'" in refusal(listed, good, {"name": 3})
    assert "'b' has neither 'checkpoint' nor 'engine'" in refusal(listed, good, {"name": "b"})
    assert "'a' stands for more than one model" in refusal(listed, good, good)


@pytest.fixture
def text_corpus(corpus, tmp_path):
    """The tiny corpus with its references as text."""
    data = shutil.copytree(corpus, tmp_path / "data")
    (data / "text").mkdir()
    for subset in ("valid", "test"):
        shutil.copy(corpus.parent / f"{subset}.en", data / "text")
    return data


def test_a_run_has_a_row_for_each_model_and_setting_and_is_never_scored_twice(
    checkpoints, text_corpus, tmp_path, monkeypatch
):
    out = tmp_path / "out.json"
    models = [f"dense={checkpoints.dense}", f"small={checkpoints.small}"]
    arguments = ["--data", str(text_corpus), "--models", *models, "--baseline", "dense"]
    arguments += ["--beams", "2,1", "--batches", "4,1", "--compute-types", "float32", "--fairseq"]
    arguments += ["--rounds", "2", "--sentences", "4", "--single-sentences", "2"]
    arguments += ["--work", str(tmp_path / "work"), "--output", str(out)]
    bleu_and_speed.main(arguments)
    first = read_comparison(out)
    keys = [(r["label"], r["engine"], r["beam"], r["batch_size"]) for r in first["rows"]]
    engines = ("CTranslate2", "fairseq")
    assert {*keys} == {*itertools.product(("dense", "small"), engines, (1, 2), (1, 4))}
    assert len(keys) == 16
    dense, small = ([r for r in first["rows"] if r["label"] == name] for name in ("dense", "small"))
    assert all(row["speedup"] == 1 and row["speedup_range"] == [1, 1] for row in dense)
    assert all(r["parameters"] == r["compact_parameters"] < dense[0]["parameters"] for r in small)
    assert small[0]["heads_total"] == dense[0]["heads_kept"] == 36
    assert {row["sentences"] for row in small if row["batch_size"] == 1} == {2}
    assert [layer["name"] for layer in small[0]["layers"]][-1] == "decoder.layers.1"
    assert {"valid_bleu", "bleu"} <= small[0].keys()
    assert all(
        low <= row["speedup"] <= high for row in small for low, high in [row["speedup_range"]]
    )

    monkeypatch.setattr(compared_models, "timed", None)  # nothing is translated again
    bleu_and_speed.main([*arguments, "--overwrite"])
    assert read_comparison(out)["rows"] == first["rows"]
    assert [row[0] for row in comparison_rows(first["rows"])][:2] == ["model", "dense"]


def test_bleu_and_the_speed_of_the_same_run_stand_in_one_record(
    checkpoints, text_corpus, tmp_path, monkeypatch
):
    how = evaluation.GenerationSettings(beam=2, batch_size=3)
    work = compared_models.Work(tmp_path / "work")
    entry = {"name": "a", "checkpoint": str(checkpoints.small)}
    folder = compared_models.contestant(work, entry, str(text_corpus)).folder
    checkpoint = shutil.copy(checkpoints.small, tmp_path / "small.pt")
    records = [
        *evaluation.evaluate(checkpoint, text_corpus, [how], engine=folder),
        *evaluation.evaluate(checkpoint, text_corpus, [how]),
    ]
    assert [record["engine"] for record in records] == ["CTranslate2", "fairseq"]
    for record in records:
        assert (record["beam"], record["batch_size"], record["compute_type"]) == (2, 3, "float32")
        assert record["threads"] >= 1
        expected = record["generated_tokens"] / record["generation_seconds"]
        # fairseq prints its seconds with one decimal.
        assert record["tokens_per_second"] == pytest.approx(
            expected, rel=0.01 + 0.05 / max(record["generation_seconds"], 0.05)
        )
    assert records[0]["bleu"] == records[1]["bleu"]
