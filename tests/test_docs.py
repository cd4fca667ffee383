"""README and docs: links lead somewhere, commands parse, examples run, numbers are measured."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import doc_commands
import pytest
import torch
from fairseq import options
from fairseq_cli import generate, train

from neuroprune_fairseq.cli import export, profile
from neuroprune_fairseq.compact.cost_file import read_cost_table
from neuroprune_fairseq.compact.cost_table import layer_shapes
from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.pruners.base import Run
from neuroprune_fairseq.structure import attention_blocks

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")
PAGES = [*ROOT_PAGES, *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md")))]
# Files that a reader is told to write.
OF_EXAMPLES = ("my_plugin/__init__.py", "neuroprune_fairseq/pruners/magnitude.py")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.M)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", doc_commands.BLOCK.sub("", read(page)))


def anchors(page: Path) -> set[str]:
    """The anchors that both a host of repositories and the site give to headings."""
    text = doc_commands.BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for match in LINK.finditer(prose(page)):
        target = match[1] or match[2]
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES)
def test_every_short_link_is_defined(page):
    text = prose(page)
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, re.M))
    used = re.findall(r"\[([\w ]+)\](?![(:\[])", re.sub(r"\[[^\]]*\]\[", "[", text))
    assert set(used) <= defined


COMMANDS = [(page, line) for page in PAGES for line in doc_commands.commands_in(read(page))]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_parses(page, command):
    doc_commands.parse(command)


@pytest.mark.parametrize(
    "command",
    [
        "fairseq-train data --arch transformer --task translation_neuroprune --target-sparse 0.5",
        "fairseq-train data --arch transformer --task translation_dsp",
        "neuroprune-compact in.pt",
        "neuroprune-none in.pt",
        "bash scripts/pretrain.sh --data d --save-dir s --no-such-flag",
        "bash scripts/quickstart.sh --no-such-flag",
        "bash scripts/none.sh",
        "python benchmarks/training.py sideways",
        "make gold",
        "pip install '.[none]'",
    ],
)
def test_a_wrong_command_does_not_parse(command):
    with pytest.raises((AssertionError, SystemExit)):
        doc_commands.parse(command)


@pytest.mark.parametrize("page", PAGES)
def test_every_example_is_python(page):
    for example in doc_commands.python_in(read(page)):
        ast.parse(example)


def test_the_example_of_a_method_prunes(build_model):
    example = doc_commands.run_python("docs/adding-a-method.md", "magnitude")
    model = build_model(encoder_layers=1, decoder_layers=1)
    first = attention_blocks(model)[0]
    with torch.no_grad():  # head 4 writes most, then head 1
        first.out_proj.weight[:, 32:40] = 3.0
        first.out_proj.weight[:, 8:16] = 2.0
    example.Magnitude(example.MagnitudeFlags(heads_per_module=2)).end_epoch(Run(model))
    assert head_mask(first).nonzero().flatten().tolist() == [1, 4]
    assert [int(head_mask(block).sum()) for block in attention_blocks(model)] == [2, 2, 2]


@pytest.mark.slow
def test_the_readmes_ten_lines_make_a_smaller_model(run_train, corpus, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    monkeypatch.chdir(tmp_path)
    small = ["--arch", "transformer_iwslt_de_en"]
    for stack in ("--encoder", "--decoder"):
        small += [
            f"{stack}-layers",
            "2",
            f"{stack}-embed-dim",
            "32",
            f"{stack}-ffn-embed-dim",
            "64",
        ]
    run_train(*small, "--max-epoch", 1, name="dense", task="translation")
    Path("dense/checkpoint_last.pt").rename("model.pt")
    lines = [*doc_commands.commands_in(read("README.md"))]
    [start] = [number for number, line in enumerate(lines) if line.startswith("neuroprune-profile")]
    for line in lines[start : start + 4]:
        name, *words = shlex.split(line.replace("data-bin/mine", str(corpus)))
        if name == "fairseq-train":
            words += [*small, "--cpu", "--max-epoch", "3", "--max-tokens", "400"]
            train.main(options.parse_args_and_arch(options.get_training_parser(), words))
        elif name == "fairseq-generate":
            words += ["--cpu", "--max-len-b", "10"]
            generate.main(options.parse_args_and_arch(options.get_generation_parser(), words))
        elif name == "neuroprune-profile":
            profile.main([*words, "--sentences", "4", "--rounds", "1"])
        else:  # few: it never ends a sentence, and at the longest length engines search differently
            export.main([*words, "--sentences", "3"])
    table, models = read_cost_table("cost.json"), ("model.pt", "pruned/checkpoint_last.pt")
    dense, pruned = (table.cost(layer_shapes(load_model(path))) for path in models)
    assert dense / pruned >= 2
    assert Path("engine/model.bin").is_file()


def test_the_readme_is_short_and_narrow():
    lines = read("README.md").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_name_that_a_page_points_to_exists(page):
    for file, name in re.findall(r"`(\w+/[\w/]+\.py)(?:: (\w+))?`", read(page)):
        places = [base / file for base in (ROOT, ROOT / "neuroprune_fairseq")]
        found = [path.read_text(encoding="utf-8") for path in places if path.exists()]
        assert found or file in OF_EXAMPLES, file
        assert not name or re.search(rf"^(def|class) {name}\b", found[0], re.M), name


def test_every_file_of_results_is_described():
    text = read("results/README.md")
    for path in (ROOT / "results").iterdir():
        assert path.stem in text or f"`{path.stem.partition('-')[0]}-*" in text, path.name


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in read(f"results/{name}.jsonl").splitlines()]


def cells(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables by their first cell."""
    rows = [line.strip("| ").split("|") for line in read(page).splitlines() if line[:1] == "|"]
    return {row[0].strip("` "): [cell.strip() for cell in row[1:]] for row in rows}


def cut(method: str, sparsity: float) -> float:
    """Test BLEU of the model that is best on the validation set at this sparsity."""
    found = [
        record
        for record in records("sparsity")
        if (record["method"], record["asked_sparsity"]) == (method, sparsity)
    ]
    best = max((r for r in found if r["subset"] == "valid"), key=lambda r: r["bleu"])["label"]
    [bleu] = [r["bleu"] for r in found if (r["label"], r["subset"]) == (best, "test")]
    return bleu


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.7, 0.8, 0.9])
def test_the_table_of_zeros_holds_what_was_measured(sparsity):
    [target] = [r["bleu"] for r in records("multi30k") if r["label"] == f"target-s{sparsity:g}"]
    expected = [target, cut("l1", sparsity), cut("neuroprune", sparsity)]
    shown = cells("docs/results.md")[f"{sparsity:g}"]
    assert [shown[1], shown[3], shown[5]] == [f"{bleu:.2f}" for bleu in expected]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_tables_of_speed_hold_what_was_measured(page):
    rows = json.loads(read("results/speed.json"))["rows"]
    shown, found = cells(page), 0
    for row in (row for row in rows if (row["beam"], row["batch_size"]) == (5, 64)):
        if row["label"] in shown:
            sides = [layer["name"].startswith("encoder") for layer in row["layers"]]
            layers = f"{sum(sides)} + {len(sides) - sum(sides)}"
            size = f"{row['compact_parameters'] / 1e6:.2f} M"
            measured = [f"{row[name]:.2f}" for name in ("valid_bleu", "bleu", "speedup")]
            assert [cell.partition(" (")[0] for cell in shown[row["label"]][:5]] == [
                *(layers, size),
                *measured,
            ]
            found += 1
    assert found >= 5


def test_the_readmes_quickstart_table_is_one_that_the_quickstart_printed():
    shown = [line.strip("| ").split("|") for line in read("README.md").splitlines()]
    shown = [[cell.strip() for cell in row] for row in shown if len(row) == 5]
    printed = []
    for record in records("quickstart"):
        heads = f"{record['heads_kept']} of {record['heads_total']}"
        kind = record["compute_type"].partition("_")[0]
        how = f"{record['engine']} {kind}, beam {record['beam']}, batch {record['batch_size']}"
        speed = f"{record['tokens_per_second']:,.0f}"
        printed.append([record["label"], f"{record['bleu']:.2f}", heads, speed, how])
    found = [row for row in shown if row[0] in {label for label, *_ in printed}]
    assert len(found) >= 2 and all(row in printed for row in found)
