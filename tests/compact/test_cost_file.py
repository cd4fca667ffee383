"""Tables of costs as files: back as they were, or refused in one line."""

import dataclasses
import json

import pytest
import torch

from neuroprune_fairseq.compact.cost_file import (
    check_fits,
    model_dims,
    read_cost_table,
    write_cost_table,
)
from neuroprune_fairseq.compact.cost_table import CostTable, flops_table
from neuroprune_fairseq.compact.cutting import compact, whole_plan

TABLE = CostTable(
    "ms per sentence",
    0.1 + 0.2,
    {"encoder": 0.5, "decoder": 1 / 3},
    {"encoder_self": [0.0, 1.0], "decoder_self": [0.0, 0.1], "decoder_cross": [0.0, 2.0]},
    {"encoder": [(0, 0.0), (7, 0.25)], "decoder": [(0, 0.0), (3, 0.5), (7, 0.5)]},
    True,
    {"engine": "ctranslate2", "cpu": "a \x1b[31m CPU", "model": {"encoder_layers": 6}},
)


def test_a_table_comes_back_as_it_was(tmp_path):
    write_cost_table(TABLE, tmp_path / "cost.json")
    assert read_cost_table(tmp_path / "cost.json") == TABLE
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


WRONG = {
    "fixed": [float("nan"), float("inf"), -1, "1", None, True, 10**400],
    "unit": [1, None],
    "layer": [{"encoder": -1}, {"middle": 1}, [1], {"encoder": None}],
    "attention": [
        *(
            {"encoder_self": []},
            {"encoder_self": [1]},
            {"encoder_self": [1, 0.5]},
            {"self": [0, 1]},
        ),
        *({"encoder_self": {"0": 1}}, {"encoder_self": [0, float("nan")]}, []),
    ],
    "mlp": [
        *({"encoder": []}, {"encoder": [[0, 1]]}, {"encoder": [[1, 0], [2, 1]]}),
        *({"encoder": [[0, 1], [0, 1]]}, {"encoder": [[0, 1], [2, 0]]}, {"encoder": [0, 1]}),
        *({"encoder": [[0, 1], [2.5, 3]]}, {"encoder": [[0, 1, 2], [3, 4, 5]]}, {"": []}),
    ],
    "per_stack": [1, "yes"],
    "settings": [[], "a", {"model": 3}, {"model": {"encoder_layers": "6"}}],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda value: str(value)[:30])
def test_a_wrong_entry_is_refused_by_its_name(tmp_path, name, value):
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({**dataclasses.asdict(TABLE), name: value}))
    with pytest.raises(SystemExit, match=rf"cost.json is no table of costs: {name} must "):
        read_cost_table(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must hold attention, .* and nothing else; neuroprune-profile writes such files"),
        ("[" * 100_000, "must hold"),
        ("[1]", "must hold"),
        (json.dumps({"unit": "ms"}), "must hold"),
        (json.dumps({**dataclasses.asdict(TABLE), "more": 1}), "must hold"),
        (" " * 1_000_001, "is larger than 1 MB"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, says):
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(SystemExit, match=f"cost.json is no table of costs: {says}"):
        read_cost_table(tmp_path / "cost.json")


def measured(model):
    return dataclasses.replace(flops_table(model), settings={"model": model_dims(model)})


def test_a_table_fits_the_model_it_was_measured_on_and_every_cut_of_it(build_model):
    model = build_model()
    table = measured(model)
    plan = {name: kept[:1] for name, kept in whole_plan(model).items()}
    plan["decoder.layers.0.self_attn"] = torch.arange(0)
    small = compact(model, plan)
    small.encoder.layers = small.encoder.layers[:2]
    for each in (model, small):
        check_fits(table, each)
    check_fits(flops_table(model), build_model(encoder_layers=7))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"encoder_layers": 7}, "encoder_layers is 7, the table's is 6"),
        ({"decoder_ffn_embed_dim": 17}, "decoder_ffn_embed_dim is 17, the table's is"),
        ({"decoder_attention_heads": 2}, "decoder_(attention_heads|head_dim) is"),
    ],
)
def test_a_table_of_another_model_is_refused(build_model, settings, says):
    with pytest.raises(SystemExit, match=f"--cost-table: measured on another model: {says}"):
        check_fits(measured(build_model()), build_model(**settings))
