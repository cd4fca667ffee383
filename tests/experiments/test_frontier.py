"""Grids, fronts, hypervolumes, results files, tables: no training, numbers worked by hand."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest
from fairseq import options

from neuroprune_experiments import records
from neuroprune_experiments.frontier import command, methods, table
from neuroprune_experiments.frontier.table import hypervolume, pareto_mask


def result(method="dsp", heads=36, bleu=30.0, valid=31.0, sparsity=0.3, seed=1, **settings):
    return {
        **{"label": "x", "method": method, "heads_kept": heads, "heads_total": 108, "seed": seed},
        **{"bleu": bleu, "valid_bleu": valid, "total_sparsity": sparsity, "settings": settings},
    }


def write(path, lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def refusal(call, *arguments, **named) -> str:
    with pytest.raises(SystemExit) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Grids and names.


def test_the_papers_grid_is_its_192_settings():
    grid = methods.parse_grid("neuroprune", "paper")
    expected = {
        (f"{alpha:g}", f"{beta:g}", f"{theta / 100:g}")
        for alpha in (0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
        for beta in (0.05, 0.1)
        for theta in range(10, 41, 2)
    }
    names = ("attn-penalty-weight", "mlp-penalty-weight", "head-distance-threshold")
    assert len(grid) == len(expected) == 192
    assert {tuple(setting[name] for name in names) for setting in grid} == expected


def test_a_grid_is_the_product_of_its_axes_with_equal_values_joined():
    grid = methods.parse_grid("neuroprune", "attn-penalty-weight=1e-3, 0.001,.01; lr=5e-4,1e-3")
    assert [tuple(setting.values()) for setting in grid] == [
        ("0.001", "0.0005"),
        ("0.001", "0.001"),
        ("0.01", "0.0005"),
        ("0.01", "0.001"),
    ]


@pytest.mark.parametrize(
    ("method", "grid", "message"),
    [
        ("dsp", "", "--grid has no runs"),
        ("dsp", " ; ", "--grid has no runs"),
        ("dsp", "heads-to-keep=", "has no runs"),
        ("dsp", "heads-to-keep=,", "has no runs"),
        ("dsp", "heads-to-keep", "must be FLAG=VALUE"),
        ("dsp", "heads=36", "'heads' is no flag of dsp; it has heads-to-keep"),
        ("dsp", "heads-to-keep=nan", "not a finite number"),
        ("dsp", "heads-to-keep=1;heads-to-keep=2", "names heads-to-keep twice"),
        ("dsp", "paper", "give values of heads-to-keep"),
        ("michel", "heads-to-keep=6;importance-recompute=maybe", "is yes or no"),
    ],
)
def test_a_wrong_grid_ends_in_one_line(method, grid, message):
    assert message in refusal(methods.parse_grid, method, grid)


def test_names_are_short_readable_and_different_for_different_settings_of_the_papers_grid():
    grid = methods.parse_grid("neuroprune", "paper")
    names = {methods.Run("neuroprune", setting, seed).name for setting in grid for seed in (1, 2)}
    assert len(names) == 2 * len(grid)
    assert "neuroprune-a0.005-t0.2-b0.05-s1" in names


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_flag_of_a_method_is_declared_by_its_task_or_criterion(method):
    chosen = methods.METHODS[method]
    assert {*chosen.search, *chosen.fixed} <= chosen.flags().keys()
    assert all(flag.metadata.get("help") for flag in chosen.flags().values())
    assert not {"lr", "source-lang", "label-smoothing", "update-freq"} & chosen.flags().keys()


@pytest.mark.parametrize("method", methods.METHODS)
def test_the_recipe_of_every_method_is_there_and_fairseq_takes_what_it_is_given(method):
    chosen = methods.METHODS[method]
    recipe = (command.SCRIPTS / chosen.script).read_text()
    given = {**dict.fromkeys(chosen.search, "1"), **chosen.fixed}
    words = methods.script_options(methods.Run(method, given, 1))
    arguments = ["data", "--optimizer", "adam", "--arch", "transformer_18x6_tiny"]
    for flag, suffix in (("--task", "translation"), ("--criterion", "label_smoothed")):
        [name] = set(re.findall(rf"{flag} ({suffix}\S*)", recipe))
        arguments += [flag, name]
    parsed = options.parse_args_and_arch(options.get_training_parser(), [*arguments, *words])
    assert parsed.pruner == chosen.pruner or method == "l1"
    for name, value in given.items():
        found = getattr(parsed, name.replace("-", "_"), None)
        assert methods.canonical(found) == value or name == "heads-to-keep"


def test_a_switch_of_a_grid_is_given_without_a_value_or_not_at_all():
    yes, no = methods.parse_grid("michel", "heads-to-keep=6;importance-recompute=yes,no")
    fixed = ["--pruner", "michel", "--heads-to-keep", "6"]
    assert methods.script_options(methods.Run("michel", yes, 1)) == [
        *fixed,
        "--importance-recompute",
    ]
    assert methods.script_options(methods.Run("michel", no, 1)) == fixed


# Fronts.


def test_a_point_is_on_the_front_unless_another_is_as_good_everywhere_and_better_somewhere():
    points = [(1, 3), (2, 2), (3, 1), (2, 1), (1, 3), (0, 3)]
    assert pareto_mask(points).tolist() == [True, True, True, False, True, False]
    assert pareto_mask([]).tolist() == []


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_the_hypervolume_is_the_number_of_unit_cells_below_the_points(dimensions):
    rng = random.Random(dimensions)
    for size in (0, 1, 2, 7):
        points = [[rng.randrange(-1, 6) for _ in range(dimensions)] for _ in range(size)]
        cells = sum(
            any(all(c < x for c, x in zip(cell, point)) for point in points)
            for cell in itertools.product(range(6), repeat=dimensions)
        )
        assert hypervolume(points, [0] * dimensions) == pytest.approx(cells)


def test_the_hypervolume_agrees_with_random_sampling():
    rng = random.Random(5)
    points = [[rng.random() for _ in range(3)] for _ in range(6)]
    drawn = [[rng.random() for _ in range(3)] for _ in range(20000)]
    hits = sum(any(all(d <= x for d, x in zip(draw, p)) for p in points) for draw in drawn)
    # Four standard deviations of a share of 20,000 draws.
    assert hypervolume(points, (0, 0, 0)) == pytest.approx(hits / len(drawn), abs=0.014)


def test_the_reference_point_moves_the_volume():
    assert hypervolume([(3, 5)], (1, 2)) == pytest.approx(6)
    assert hypervolume([(3, 5)], (3, 2)) == 0


# Results files.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("{good}\n{half", "line 2 is damaged: it is no JSON"),
        ("{good}\n\n[1]\n", "line 3 is no JSON object"),
        ('{"bleu": 3}\n', "line 1 lacks 'method'"),
        ('{"method": "dsp", "bleu": 3}\n', "line 1 lacks 'valid_bleu'"),
        ('{"method": "dsp", "bleu": "3"}\n', "line 1 has no number in 'bleu'"),
        ('{"method": "dsp", "bleu": NaN}\n', "line 1 has nan in 'bleu'"),
        ('{"method": "dsp", "bleu": 300}\n', "line 1 has 300 in 'bleu'"),
    ],
)
def test_a_damaged_results_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "r.jsonl"
    path.write_text(text.replace("{good}", json.dumps(result())))
    said = refusal(records.read_frontier, [path])
    assert message in said
    assert str(path) in said


def test_a_missing_and_a_binary_file_are_refused(tmp_path):
    assert "no such results file" in refusal(records.read_frontier, [tmp_path / "no"])
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in refusal(records.read_frontier, [tmp_path / "b"])
    assert "cannot be read as text" in refusal(records.read_frontier, [tmp_path])


def test_records_of_several_files_are_joined(tmp_path):
    one = write(tmp_path / "1", [result(heads=12)])
    two = write(tmp_path / "2", [result(heads=24), result(heads=36)])
    found = records.read_frontier([one, two])
    assert [record["heads_kept"] for record in found] == [12, 24, 36]


# Selection and tables.


def test_validation_bleu_alone_selects_and_test_bleu_is_reported():
    lines = [result(valid=32, bleu=29, a="1"), result(valid=31, bleu=40, a="2")]
    [(heads, chosen)] = table.best_by_heads(lines)
    assert (heads, chosen.bleu, chosen.settings) == ("36", 29, "a=1")


def test_seeds_of_a_setting_are_averaged_before_the_selection():
    lines = [result(valid=v, bleu=b, seed=s, a="1") for s, v, b in ((1, 34, 30), (2, 30, 32))]
    lines.append(result(valid=33, bleu=35, a="2"))
    [(_, chosen)] = table.best_by_heads(lines)
    assert chosen.settings == "a=2"
    [joined] = table.candidates(lines[:2])
    assert (joined.valid_bleu, joined.bleu, joined.seeds) == (32, 31, 2)
    assert joined.bleu_spread == pytest.approx(2**0.5)


def test_rows_of_at_most_so_many_heads_take_the_best_below():
    lines = [result(heads=12, valid=20), result(heads=30, valid=25), result(heads=50, valid=33)]
    lines.append(result("l1", heads=108))
    found = [(text, c.method, c.heads_kept) for text, c in table.best_by_heads(lines, (54, 36))]
    assert found == [("<= 54 (50)", "dsp", 50), ("<= 36 (30)", "dsp", 30)]


def test_the_hypervolume_of_a_method_is_that_of_its_front_by_validation():
    lines = [
        result(heads=54, valid=40, bleu=20, sparsity=0.5),  # on the front
        result(heads=54, valid=30, bleu=90, sparsity=0.5),  # dominated, though better in test
        result(heads=27, valid=20, bleu=10, sparsity=0.5),  # on the front
        result("l1", heads=27, valid=99, bleu=99, sparsity=0.9),
    ]
    space, plane, members = table.volumes(lines, "dsp")
    # Boxes 0.2 x 0.5 and 0.1 x 0.75 overlap in 0.1 x 0.5.
    assert plane == pytest.approx(0.125)
    assert space == pytest.approx(0.125 * 0.5)
    assert members == 2


def test_the_table_names_reference_point_and_axes(tmp_path, capsys):
    path = write(tmp_path / "r", [result(), result("neuroprune", heads=40, sparsity=0.7)])
    command.main(["table", str(path)])
    printed = capsys.readouterr().out
    assert "reference point (0, 0, 0)" in printed
    assert "Selected by validation BLEU" in printed
    assert "neuroprune" in printed
