"""neuroprune-report from end to end on small checkpoints: the page, its files, its refusals."""

from __future__ import annotations

import html
import json
import re
from xml.etree import ElementTree

import pytest
from PIL import Image
from test_frontier import refusal, result
from test_tradeoff import ROWS

from neuroprune_experiments.report import weights
from neuroprune_experiments.report.command import FIGURES, main
from neuroprune_experiments.report.facts import read_model
from tests.report_models import epoch_record, facts, write_checkpoint, write_lines

XHTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
PICTURES = """patterns patterns-attention patterns-mlp-in patterns-mlp-out degrees degree-spread
positions positions-modules importance layers heads training frontier""".split()
TRAIN_LOG = "x | INFO | train | epoch 001 | loss 5.25\nx | INFO | train | epoch 002 | loss 4.75\n"


def evaluated(*arguments, **named):
    """A line of a results file that both evaluate.sh and neuroprune-frontier could have written."""
    modules = {"heads_kept_per_module": {"encoder.layers.0.self_attn": 1}}
    numbers = {"attn_sparsity": 0.2, "mlp_sparsity": 0.4, "generation_seconds": 5.0}
    return {**result(*arguments), **modules, **numbers, **named}


def speeds(**changes):
    row = {"contender": "fairseq <dense>", "available_cores": 1, "batch_size": 64, "beam": 5}
    row.update({"tokens_per_second": 1234.4, "speed_up": 1.0, "peak_bytes": 2e8, **changes})
    best = [row, {**row, "batch_size": 1, "tokens_per_second": 99.6, "peak_bytes": 3e8}]
    settings = {"arch": "a_to_z", "heads": 0.5, "neurons": 0.1}
    return {"settings": settings, "hardware": {"cpu": "C", "cores": 2}, "best": best}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints (dense, pruned by two methods, compact), runs and results."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "dense" / "checkpoint_last.pt")
    write_checkpoint(folder / "np" / "checkpoint_last.pt", "neuroprune", (0, 1, 2))
    write_checkpoint(folder / "dsp" / "checkpoint_last.pt", "dsp", (2, 3))
    write_checkpoint(folder / "small.pt", "dsp", (2, 3), is_compact=True)
    lines = [epoch_record(1, 32, {"0": 3, "1": 4}), epoch_record(2, 15, {"2": None}, [3, 4, 5])]
    write_lines(folder / "np" / "neuroprune.jsonl", lines)
    (folder / "other").mkdir()
    (folder / "other" / "train.log").write_text(TRAIN_LOG)
    write_lines(folder / "results.jsonl", [evaluated("dsp", 20), evaluated("a & <b>", 30)])
    (folder / "speed.json").write_text(json.dumps(speeds()))
    return folder


@pytest.fixture(scope="module")
def report(files):
    """The folder of a report of everything."""
    names = ("dense/checkpoint_last.pt", "np/checkpoint_last.pt", "dsp/checkpoint_last.pt")
    checkpoints = [str(files / name) for name in (*names, "small.pt")]
    out = files / "report"
    main(
        [
            *checkpoints,
            *("--labels", "<dense> & co", "np", "dsp", "small"),
            *("--run", str(files / "other"), "--pretrained", checkpoints[0]),
            *("--results", str(files / "results.jsonl"), str(files / "speed.json")),
            *("--out", str(out)),
        ]
    )
    return out


@pytest.fixture(scope="module")
def page(report):
    """The page, parsed by the standard parser: it is well-formed."""
    return ElementTree.parse(report / "index.html").getroot()


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def tables(page, anchor=None):
    """The cells of every table of a section (None: of the page's top), row by row."""
    sections = {section.get("id"): section for section in page.iter(f"{XHTML}section")}
    main_part = page.find(f".//{XHTML}main")
    found = sections[anchor].iter if anchor else main_part.find(f"{XHTML}div").iter
    return [
        [[text_of(cell) for cell in row] for row in table.iter(f"{XHTML}tr")]
        for table in found(f"{XHTML}table")
    ]


def test_every_picture_is_in_the_page_and_beside_it_as_png_and_svg(report, page):
    expected = {f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")}
    assert {path.name for path in report.iterdir()} == {"index.html", *expected}
    inlined = [div for div in page.iter(f"{XHTML}div") if div.get("class") == "picture"]
    assert {div.get("data-name") for div in inlined} == {*PICTURES}
    assert all(div.find(f".//{SVG}svg") is not None for div in inlined)
    for name in PICTURES:
        assert ElementTree.parse(report / f"{name}.svg").getroot().tag == f"{SVG}svg"
        with Image.open(report / f"{name}.png") as image:
            assert image.width > 300
            assert len(image.convert("L").getcolors(256)) > 2  # something is drawn


def test_the_page_needs_nothing_from_anywhere(page):
    for element in page.iter():
        assert element.tag not in (f"{XHTML}script", f"{XHTML}link", f"{XHTML}img")
        for name, value in element.items():
            if name.endswith(("href", "src")):
                assert value.startswith(("#", "data:image/png;base64,"))
            assert not re.search(r"url\((?!#)", value)
    style = page.find(f".//{XHTML}style").text
    assert "url(" not in style and "@import" not in style


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len({*ids})
    values = [value for element in page.iter() for value in element.attrib.values()]
    references = {match for value in values for match in re.findall(r"url\(#([^)]+)\)", value)}
    links = {v[1:] for e in page.iter() for k, v in e.items() if k.endswith("href") and v[0] == "#"}
    assert references and links
    assert references | links <= {*ids}


def test_ids_are_unique_in_the_files_too(report):
    ids = re.findall(r'\bid="([^"]+)"', (report / "layers.svg").read_text())
    assert len(ids) == len({*ids}) > 0


def test_names_are_shown_as_they_are(report, page):
    assert html.escape("<dense> & co") in (report / "index.html").read_text()
    assert tables(page)[0][1][0] == "<dense> & co"
    assert tables(page, "speed")[0][1][0] == "fairseq <dense>"


def test_the_models_table_has_the_numbers_of_the_files(page, files):
    rows = tables(page)[0]
    cells = dict(zip(rows[0], rows[2]))
    sparsity = read_model(files / "np" / "checkpoint_last.pt", "np", 1e-3)[0].sparsity
    # Half the heads of five modules, none of the sixth; small weights besides.
    assert (cells["method"], cells["heads kept"]) == ("neuroprune", "15 of 36")
    assert cells["attention sparsity"] == f"{sparsity['attn_sparsity']:.3f}"
    assert sparsity["attn_sparsity"] == pytest.approx(1 - 15 / 36, abs=0.02)
    assert cells["MLP sparsity"] == f"{sparsity['mlp_sparsity']:.3f}"
    assert rows[4][0] == "small (compact)" and rows[4][2] == "20 of 36"


def test_each_figure_says_what_it_shows_and_which_of_the_papers_it_answers(page):
    sections = list(page.iter(f"{XHTML}section"))
    assert [section.get("id") for section in sections] == FIGURES
    links = [text_of(link) for link in page.find(f".//{XHTML}nav").iter(f"{XHTML}a")]
    assert links == [text_of(section.find(f"{XHTML}h2")) for section in sections]
    answered = " ".join(text_of(section.find(f"{XHTML}p")) for section in sections)
    for figure in ("Figures 1, 8, 9 and 10", "Figure 2", "Figure 3", "Figure 6", "Figure 7 (left)"):
        assert f"Answers {figure} of the paper" in answered
    assert all(text_of(section.findall(f"{XHTML}p")[1]).endswith(".") for section in sections)


def test_figures_on_heads_have_hand_worked_numbers(page):
    positions = {row[0]: row[1:] for row in tables(page, "positions")[0]}
    # Heads 0, 1, 2 in five modules, all in the sixth; dsp and small have lost the same ones.
    assert positions["neuroprune (1 run)"] == ["1.00"] * 3 + ["0.17"] * 3
    assert positions["dsp (2 runs)"] == ["0.17", "0.17", "1.00", "1.00", "0.17", "0.17"]
    layers = tables(page, "layers")[0]
    assert ["neuroprune", "cross", "3.0", "6.0"] in layers
    assert ["dsp", "encoder", "2.0", "2.0"] in layers  # the mean of dsp and small
    importance = tables(page, "importance")[0]
    assert [row[2] for row in importance[1:]] == ["21", "16", "16"]  # np, dsp, small


def test_the_map_shows_the_replacement_and_a_dash_for_a_head_without(report):
    svg = ElementTree.parse(report / "heads.svg").getroot()
    panel = svg.findall(f"{SVG}svg")[0]
    texts = [text_of(text) for text in panel.iter(f"{SVG}text")]
    assert texts[:2] == ["np", "15 of 36 heads"]
    row = texts[texts.index("enc 0 self") + 1 : texts.index("enc 1 self")]
    assert row == ["3", "4", "–"]


def test_the_course_has_the_runs_of_the_checkpoints_and_the_others(page):
    rows = {row[0]: row for row in tables(page, "training")[0]}
    assert rows["np"][1:] == ["2", "-", "-", "-", "15", "0.2", "0.2", "0.15", "1 (−2), 2 (−17)"]
    assert rows["other"][1:3] == ["2", "4.75"]


def test_results_are_tables(page):
    assert tables(page, "frontier")[0][2][:3] == ["x", "30.00", "30 of 108"]
    titles, row = tables(page, "speed")[0]
    assert titles[1:] == ["cores", "batch 1, beam 5", "batch 64, beam 5", "memory MB"]
    assert row[1:] == ["1", "100 (1.00 ×)", "1,234 (1.00 ×)", "300"]
    captions = map(text_of, page.iter(f"{XHTML}caption"))
    assert "a_to_z, 50% of heads, 10% of neurons, on C, 2 cores" in captions


def test_bleu_stands_beside_the_speed_of_the_same_run(tmp_path):
    path, out = tmp_path / "speeds.json", tmp_path / "out"
    found = {"baseline": "dense", "hardware": {"cpu": "C", "cores": 2}, "rows": ROWS}
    path.write_text(json.dumps(found))
    main(["--results", str(path), "--out", str(out)])
    names = {file.name for file in out.iterdir()}
    assert names == {"index.html", "bleu-speed.png", "bleu-speed.svg"}
    made = ElementTree.parse(out / "index.html").getroot()
    [rows] = tables(made, "speed")
    cells = dict(zip(rows[0], rows[2]))
    assert (cells["model"], cells["BLEU"], cells["speed-up"]) == ("a-1", "35.00", "2.00")
    assert cells["engine"] == "CTranslate2 int8"
    captions = [text_of(caption) for caption in made.iter(f"{XHTML}caption")]
    assert captions == ["speed-up over dense, on C, 2 cores"]


@pytest.fixture
def arguments(files, tmp_path):
    """A quick report: results alone."""
    return ["--results", str(files / "speed.json"), "--out", str(tmp_path / "out")]


def test_results_alone_make_a_report_and_overwrite_replaces_it(arguments, tmp_path, capsys):
    main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / "index.html").write_text("mine")
    (tmp_path / "out" / "notes.txt").write_text("mine, too")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--overwrite replaces" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out" / "index.html").read_text() == "mine"
    main([*arguments, "--overwrite"])
    assert "fairseq &lt;dense&gt;" in (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine, too"


def test_only_the_figures_that_are_asked_for_are_drawn(files, tmp_path):
    flags = ["--results", str(files / "results.jsonl"), str(files / "speed.json")]
    main([*flags, "--figures", "frontier", "heads", "--out", str(tmp_path / "out")])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["frontier.png", "frontier.svg", "index.html"]
    said = refusal(main, [*flags, "--figures", "heads", "--out", str(tmp_path / "none")])
    assert "--figures heads: there is nothing to draw these from" in said


def test_files_that_do_not_fit_get_one_line_and_leave_nothing(files, tmp_path):
    dense = str(files / "dense" / "checkpoint_last.pt")
    write_lines(tmp_path / "bleu.jsonl", [evaluated(bleu="high")])
    (tmp_path / "slow.json").write_text(json.dumps(speeds(beam=None)))
    write_checkpoint(tmp_path / "wide.pt", encoder_attention_heads=4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "neuroprune.jsonl").write_text("{")
    before = sorted(tmp_path.iterdir())
    for flags, message in (
        ([dense, tmp_path / "wide.pt", "--labels", "a", "a"], "more than one checkpoint"),
        ([dense, "--pretrained", tmp_path / "wide.pt"], "has other attention modules than dense"),
        ([dense, "--pretrained", files / "small.pt"], "small.pt is compact: name the model from"),
        (["--run", tmp_path / "run"], "neuroprune.jsonl, line 1 is damaged"),
        (["--results", tmp_path / "bleu.jsonl"], "has no number in 'bleu'"),
        (["--results", tmp_path / "slow.json"], "has no number in 'best.1.beam'"),
    ):
        said = refusal(main, [*map(str, flags), "--out", str(tmp_path / "out")])
        assert message in said
    assert sorted(tmp_path.iterdir()) == before


def test_big_models_leave_room_for_each_other(files):
    """Twelve models are drawn, and fewer where their patterns would fill the page."""
    small, _ = read_model(files / "dense" / "checkpoint_last.pt", "dense", 0.0)
    assert len(weights.shown_models([small] * 40)) == weights.MOST_MODELS
    big = facts(small.attention * 100, small.mlps * 100)
    shown = weights.shown_models([big] * 40)
    assert 1 <= len(shown) < weights.MOST_MODELS
