"""What was asked for is what the model costs in the end; heads, neurons and layers all go."""

from __future__ import annotations

import copy

import pytest
import torch
from test_task import assert_equal_weights, epoch_lines, load

from neuroprune_fairseq.compact.cost import flops_per_token
from neuroprune_fairseq.compact.cost_file import write_cost_table
from neuroprune_fairseq.compact.cost_table import CostTable, LayerShape, layer_shapes
from neuroprune_fairseq.method.part_importance import PartImportance
from neuroprune_fairseq.pruners.parts import Parts, number_in
from neuroprune_fairseq.structure import attention_blocks

FLAGS = ("--max-epoch", 3, "--target-interval", 2)
COSTS = {
    "parameters": lambda model: sum(p.numel() for p in model.parameters()),
    "flops": lambda model: sum(flops_per_token(model)),
}


@pytest.mark.parametrize("flag, goal", [("parameters", 0.7), ("flops", 0.5)])
def test_the_model_costs_what_was_asked_for_and_no_more(run_train, tmp_path, flag, goal):
    run_train("--max-update", 1, name="dense")
    run_train(*FLAGS, f"--target-{flag}", goal)
    whole, small = (load(tmp_path / run / "checkpoint_last.pt") for run in ("dense", "run"))
    share = COSTS[flag](small) / COSTS[flag](whole)
    assert 0.98 * goal <= share <= goal
    assert epoch_lines(tmp_path / "run")[-1]["cost_share"] == pytest.approx(share, abs=2e-3)


def test_a_family_keeps_each_of_its_models(run_train, tmp_path):
    run_train("--max-update", 1, name="dense")
    run_train("--max-epoch", 4, "--target-interval", 1, "--target-speedup", "1.5,6")
    whole = sum(flops_per_token(load(tmp_path / "dense" / "checkpoint_last.pt")))
    for factor in (1.5, 6):
        small = load(tmp_path / "run" / f"checkpoint_speedup_{factor:g}.pt")
        speedup = whole / sum(flops_per_token(small))
        # Coarse where a head is a large part of what is left of a tiny model.
        assert factor <= speedup <= 1.05 * factor
    assert_equal_weights(
        torch.load(tmp_path / "run" / "checkpoint_last.pt"),
        torch.load(tmp_path / "run" / "checkpoint_speedup_6.pt"),
    )


@pytest.fixture
def engine_table(run_train, tmp_path):
    """The costs of an engine with one number of heads a stack, in which a layer is expensive."""
    run_train("--max-update", 1, name="dense")
    shapes = layer_shapes(load(tmp_path / "dense" / "checkpoint_last.pt"))
    attention = {kind: [float(n) for n in range(7)] for s in shapes for kind in s.heads}
    mlp = dict.fromkeys(("encoder", "decoder"), [(0, 0.0), (96, 2.0)])
    table = CostTable("ms", 1.0, {"encoder": 5.0, "decoder": 9.0}, attention, mlp, True)
    write_cost_table(table, tmp_path / "cost.json")
    return table, table.cost(shapes), tmp_path / "cost.json"


PRE_NORM = ("--encoder-normalize-before", "--decoder-normalize-before")


@pytest.mark.parametrize("norm", [(), PRE_NORM])
def test_an_engine_gets_even_stacks_and_loses_layers(run_train, tmp_path, engine_table, norm):
    table, whole, file = engine_table
    run_train(*FLAGS, *norm, "--target-speedup", 2.5, "--cost-table", file)
    small = layer_shapes(load(tmp_path / "run" / "checkpoint_last.pt"))
    assert 2.5 <= whole / table.cost(small) <= 2.55
    assert len(small) < 12
    for side in ("encoder", "decoder"):
        heads = [n for shape in small if shape.side == side for n in shape.heads.values()]
        assert len(set(heads)) == 1, side


def test_layers_stay_where_only_heads_and_neurons_may_go(run_train, tmp_path, engine_table):
    table, whole, file = engine_table
    flags = ("--cost-table", file, "--target-parts", "heads,neurons")
    run_train(*FLAGS, "--target-speedup", 1.5, *flags)
    small = layer_shapes(load(tmp_path / "run" / "checkpoint_last.pt"))
    assert 1.5 <= whole / table.cost(small) <= 1.53
    assert len(small) == 12


@pytest.mark.slow
@pytest.mark.parametrize("more", ["--target-flops 0.4", "--bf16 --target-speedup 1.3,3"])
def test_a_run_resumed_in_its_second_epoch_is_the_same_run(run_train, tmp_path, more):
    flags = (*FLAGS, "--save-interval-updates", 2, *more.split())
    whole = run_train(*flags, name="whole")
    middle = sorted((tmp_path / "whole").glob("checkpoint_2_*.pt"))[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint_last.pt").write_bytes(middle.read_bytes())
    resumed = run_train(*flags)
    assert_equal_weights(resumed, whole)
    assert epoch_lines(tmp_path / "run")[-1] == epoch_lines(tmp_path / "whole")[-1]


def importance_of(model, seed=1):
    """Random importance of every head and neuron."""
    generator = torch.Generator().manual_seed(seed)
    found = PartImportance()
    for block in attention_blocks(model):
        found.values[block.name] = torch.rand(6, generator=generator)
    for name in Parts(model).mlps:
        found.values[name] = torch.rand(96, generator=generator)
    return found


def test_the_least_important_of_what_goes_goes_first(build_model):
    model = build_model()
    importance, parts = importance_of(model), Parts(model)
    goal = copy.deepcopy(parts.shapes)
    goal[0].heads["encoder_self"] = 2
    goal[1].heads["encoder_self"] = 5
    parts.shrink_("heads", goal, 108 - 3, importance, {})
    first, second = (importance.values[f"encoder.layers.{i}.self_attn"] for i in (0, 1))
    going = sorted([*first.sort().values[:4].tolist(), second.min().item()])[:3]
    gone = [v for v in [*first.tolist(), *second.tolist()] if v in going]
    after = Parts(model)
    assert number_in(after.shapes, "heads") == 105 and len(gone) == 3
    for values, name in ((first, "encoder.layers.0"), (second, "encoder.layers.1")):
        alive = after.heads[f"{name}.self_attn"].tolist()
        assert alive == [head for head, v in enumerate(values.tolist()) if v not in going]


def test_of_the_layers_that_go_the_one_that_is_missed_least_goes_first(build_model):
    model = build_model()
    parts = Parts(model)
    going = {"decoder.layers.2": 2.0, "decoder.layers.3": 1.0, "encoder.layers.0": 3.0}
    goal = [shape for shape in parts.shapes if shape.name not in going]
    parts.shrink_("layers", goal, 11, importance_of(model), going)
    left = [shape.name for shape in parts.shapes if shape.name != "decoder.layers.3"]
    assert [s.name for s in Parts(model).shapes] == left


def test_a_layer_goes_with_all_that_it_adds(build_model):
    model = build_model()
    parts, lost = Parts(model), {"decoder.layers.2": 1.0}
    goal = [shape for shape in parts.shapes if shape.name not in lost]
    parts.shrink_("layers", goal, 11, importance_of(model), lost)
    assert [s.name for s in Parts(model).shapes] == [shape.name for shape in goal]
    layer = model.decoder.layers[2]
    for linear in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
        assert not linear.weight.any() and not linear.bias.any()


def test_options_price_what_is_left(build_model):
    model = build_model()
    importance = importance_of(model)
    lost = {"encoder.layers.3": 100.0}
    option = Parts(model).options(importance, ["heads", "neurons", "layers"], lost)[3]
    assert option.shape == LayerShape("encoder.layers.3", {"encoder_self": 6}, 96)
    values = importance.values["encoder.layers.3.self_attn"].sort(descending=True).values
    for kept in range(7):
        assert option.heads_lost["encoder_self"][kept] == pytest.approx(values[kept:].sum().item())
    assert option.removal_lost == 100.0
    fixed = Parts(model).options(importance, ["neurons"], {})[3]
    assert fixed.removal_lost == fixed.heads_lost["encoder_self"][5] == float("inf")
    assert fixed.heads_lost["encoder_self"][6] == 0.0
