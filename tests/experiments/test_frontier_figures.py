"""The picture's numbers: bands, curves, files; and how plot refuses."""

from __future__ import annotations

import csv
import random

from test_frontier import refusal, result, write

from neuroprune_experiments.frontier import command
from neuroprune_experiments.frontier import figures as figures


def test_bands_contain_their_lower_edge_and_the_last_its_upper_edge():
    found = [figures.band_of(result(valid=v), [30, 32, 34]) for v in (29, 30, 32, 33.9, 34, 35)]
    assert found == [None, 0, 1, 1, 1, None]


def test_chosen_bands_are_those_that_hold_the_best_fifth():
    lines = [result(valid=valid) for valid in (2.0, 25.0, 29.4, 33.3, 36.7)]
    edges = figures.band_edges(lines)
    assert edges == sorted(edges)
    assert edges[0] <= 0.8 * 36.7 < edges[1]
    found = [figures.band_of(line, edges) is None for line in lines]
    assert found == [True, True, False, False, False]


def test_one_result_and_results_without_any_bleu_have_a_band():
    for valid in (30.0, 0.0):
        lines = [result(valid=valid)]
        assert figures.band_of(lines[0], figures.band_edges(lines)) is not None


def test_a_curve_is_the_upper_hull():
    places = [(10, 0.1), (20, 0.5), (20, 0.4), (30, 0.3), (40, 0.4), (25, 0.5)]
    hull = figures.upper_hull([result(heads=heads, sparsity=s) for heads, s in places])
    found = [(record["heads_kept"], record["total_sparsity"]) for record in hull]
    assert found == [(10, 0.1), (20, 0.5), (25, 0.5), (40, 0.4)]


def test_no_point_lies_above_the_hull():
    rng = random.Random(7)
    lines = [result(heads=rng.randrange(1, 109), sparsity=rng.random()) for _ in range(40)]
    hull = figures.upper_hull(lines)
    for left, right in zip(hull, hull[1:]):
        span = right["heads_kept"] - left["heads_kept"]
        for line in lines:
            share = (line["heads_kept"] - left["heads_kept"]) / span
            if 0 <= share <= 1:
                height = left["total_sparsity"] * (1 - share) + right["total_sparsity"] * share
                assert line["total_sparsity"] <= height + 1e-9


def test_plot_writes_png_svg_and_the_points_and_overwrites_only_if_asked(tmp_path):
    lines = [result(heads=h, sparsity=h / 200, valid=30 + h / 20) for h in (12, 36, 72)]
    lines += [result("mine", heads=50, sparsity=0.6, a="1"), result("mine", heads=40)]
    path, out = write(tmp_path / "r", lines), tmp_path / "pic"
    command.main(["plot", str(path), "--out", str(out), "--bands", "30,32,34"])
    assert (tmp_path / "pic.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "pic.svg").read_text()
    with (tmp_path / "pic.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["valid_bleu_band"] for row in rows] == ["30-32", "30-32", "32-34", *["30-32"] * 2]
    assert rows[3]["settings"] == "a=1"
    assert float(rows[2]["total_sparsity"]) == 0.36
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "pic.csv",
        "pic.png",
        "pic.svg",
        "r",
    ]

    arguments = ["plot", str(path), "--out", str(out)]
    assert "pic.png exists; --overwrite replaces it" in refusal(command.main, arguments)
    command.main([*arguments, "--overwrite"])
