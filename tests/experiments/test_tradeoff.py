"""BLEU against speed: seeds joined, settings apart, pictures and how plot refuses."""

from __future__ import annotations

import csv
import json

import pytest
from test_frontier import refusal, result, write

from neuroprune_experiments.frontier import command, tradeoff


def row(label, method, speedup, bleu, kind="int8", batch=64, **named):
    found = {
        **{"label": label, "method": method, "engine": "CTranslate2", "compute_type": kind},
        **{"threads": 1, "beam": 5, "batch_size": batch, "sentences": 8, "bleu": bleu},
        **{"generation_seconds": [1.0], "tokens_per_second": 9.0, "speedup": speedup},
        **{"speedup_range": [speedup, speedup], "heads_kept": 36, "total_sparsity": 0.5, **named},
    }
    return {name: value for name, value in found.items() if value is not None}


ROWS = [
    row("dense", "dense", 1.0, 37.0),
    row("a-1", "mine", 2.0, 35.0, settings={"target-speedup": 2}, seed=1),
    row("a-2", "mine", 2.2, 36.0, settings={"target-speedup": 2}, seed=2),
    row("b", "mine", 3.0, 34.0, settings={"target-speedup": 3}),
    row("b", "mine", 2.5, 34.0, batch=1, settings={"target-speedup": 3}),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "speeds.json"
    path.write_text(json.dumps({"baseline": "dense", "rows": ROWS}))
    return path


def test_seeds_of_equal_settings_are_one_point_with_their_standard_deviation():
    dense, two, three = tradeoff.points(ROWS[:4], "speed")
    assert (dense.method, dense.settings, dense.x, dense.seeds) == ("dense", "dense", 1.0, 1)
    assert (two.x, two.bleu, two.seeds) == (pytest.approx(2.1), 35.5, 2)
    # Of two values the deviation is their difference / sqrt(2).
    assert (two.x_spread, two.bleu_spread) == (
        pytest.approx(0.1414, abs=1e-4),
        pytest.approx(0.5**0.5),
    )
    assert (three.x, three.x_spread, three.bleu_spread) == (3.0, 0.0, 0.0)


def test_a_panel_is_one_setting_and_batches_matter_to_speed_alone():
    by_speed, by_heads = (tradeoff.by_setting(ROWS, x) for x in ("speed", "heads"))
    assert [(title, len(group)) for title, group in by_speed.items()] == [
        ("CTranslate2 int8, beam 5, batch 64", 4),
        ("CTranslate2 int8, beam 5, batch 1", 1),
    ]
    assert [(title, len(group)) for title, group in by_heads.items()] == [
        ("CTranslate2 int8, beam 5", 4)
    ]


def test_records_of_a_study_have_one_panel_for_all(tmp_path):
    path = write(tmp_path / "r", [result(heads=h) for h in (12, 36)])
    records = tradeoff.read_tradeoff([path])
    assert [len(group) for group in tradeoff.by_setting(records, "heads").values()] == [2]


def test_plot_draws_bleu_against_speed_and_writes_its_points(file, tmp_path):
    out = tmp_path / "pic"
    command.main(["plot", str(file), "--x", "speed", "--batch-size", "64", "--out", str(out)])
    assert (tmp_path / "pic.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "pic.svg").read_text()
    assert "<svg" in svg
    with (tmp_path / "pic.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["method"], float(row["speedup"]), float(row["bleu"])) for row in rows] == [
        ("dense", 1.0, 37.0),
        ("mine", pytest.approx(2.1), 35.5),
        ("mine", 3.0, 34.0),
    ]
    assert {row["setting"] for row in rows} == {"CTranslate2 int8, beam 5, batch 64"}


def test_plot_names_what_is_not_in_the_results(file, tmp_path):
    out = ["--out", str(tmp_path / "p")]
    study = str(write(tmp_path / "r", [result()]))
    for arguments, message in (
        (
            [study, "--x", "speed"],
            "--x speed: x has none; benchmarks/bleu_and_speed.py measures it",
        ),
        ([str(file), "--x", "speed", "--beam", "3"], "--beam 3: there are only results of 5"),
        ([study, "--beam", "5"], "--beam goes with --x"),
        ([str(file)], "speeds.json is a comparison of speeds: draw it with --x speed"),
    ):
        assert message in refusal(command.main, ["plot", *arguments, *out])
