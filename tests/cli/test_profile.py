"""neuroprune-profile: real engines on a tiny model."""

from __future__ import annotations

import pytest

from neuroprune_fairseq.cli.profile import HOW, load_work, main
from neuroprune_fairseq.compact.cost_file import check_fits, read_cost_table
from neuroprune_fairseq.compact.cost_table import layer_shapes
from neuroprune_fairseq.export.timing import Work, timer_maker
from neuroprune_fairseq.files.models import load_model

pytest.importorskip("ctranslate2")
ENGINES = {"ctranslate2": "float32", "fairseq": "float32"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_is_measured_that_fits_the_model(corpus, checkpoints, tmp_path, capsys, engine):
    out = tmp_path / "cost.json"
    flags = ["--engine", engine, "--compute-type", "float32", "--beam", "2", "--batch", "3"]
    flags += ["--sentences", "6", "--length", "3", "--rounds", "1"]

    main([str(checkpoints.dense), "--data", str(corpus), "--out", str(out), *flags])

    table, model = read_cost_table(out), load_model(checkpoints.dense)
    check_fits(table, model)
    assert table.per_stack == (engine == "ctranslate2")
    assert table.cost(layer_shapes(model)) > 0
    assert set(HOW) <= table.settings.keys()
    expected = {"beam": 2, "batch_size": 3, "sentences": 6, "length": 3, "engine": engine}
    assert expected.items() <= table.settings.items()
    assert f"models timed, dense {table.settings['dense']:.2f} ms per" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ENGINES)
def test_every_translation_has_the_length_asked_for(corpus, checkpoints, monkeypatch, engine):
    how = {"beam": 2, "batch_size": 4, "threads": 1, "compute_type": "float32", "engine": engine}
    how |= {"subset": "test", "sentences": 10, "length": 30}
    model, work = load_work(checkpoints.dense, corpus, how)
    monkeypatch.setattr(Work, "time", lambda self, translate: translate())

    found = timer_maker(engine, work)(model)()

    if engine == "ctranslate2":
        lengths = [len(each.hypotheses[0]) for each in found]
    else:  # whose translations end with </s>
        lengths = [len(each[0]["tokens"]) - 1 for batch in found for each in batch]
    assert lengths == [30] * 10


def test_the_length_is_the_mean_of_the_references(corpus, checkpoints):
    how = {"beam": 2, "batch_size": 4, "threads": 1, "compute_type": "float32"}
    how |= {"engine": "fairseq", "subset": "test", "sentences": 20, "length": None}
    _, work = load_work(checkpoints.dense, corpus, how)
    lines = (corpus.parent / "test.en").read_text().splitlines()
    assert work.length == round(sum(len(line.split()) for line in lines) / len(lines))


@pytest.mark.parametrize("name", ["pruned", "small"])
def test_a_pruned_model_is_refused(corpus, checkpoints, tmp_path, name):
    path, out = getattr(checkpoints, name), tmp_path / "cost.json"
    with pytest.raises(SystemExit, match=f"{name}.pt is pruned already; measure the model that"):
        main([str(path), "--data", str(corpus), "--out", str(out), "--engine", "fairseq"])
    assert not out.exists()
