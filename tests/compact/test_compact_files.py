"""neuroprune-compact: what it writes, refuses and never overwrites; the optimizer's moments."""

from __future__ import annotations

import copy

import pytest
import torch

from neuroprune_fairseq.cli.compact import main
from neuroprune_fairseq.compact import compact, shapes
from neuroprune_fairseq.compact.cutting import make_plan
from neuroprune_fairseq.compact.optimizer import cut_optimizer_state
from neuroprune_fairseq.files.checkpoint import model_flags, read_checkpoint
from neuroprune_fairseq.files.models import model_of
from neuroprune_fairseq.structure import attention_blocks
from tests.conftest import prune_


def test_the_flags_of_a_compact_model_can_be_listed(checkpoints):
    flags = model_flags(read_checkpoint(checkpoints.small))
    assert flags[0] == "--arch=transformer_18x6_tiny"


def test_checkpoints_of_equal_shapes_can_be_averaged(checkpoints, tmp_path):
    state = read_checkpoint(checkpoints.small)
    average = copy.deepcopy(state)
    for name, weight in state["model"].items():
        average["model"][name] = (weight + 3 * weight) / 2
    torch.save(average, tmp_path / "average.pt")
    model = model_of(read_checkpoint(tmp_path / "average.pt"), "average.pt")
    weight = model.state_dict()["decoder.layers.0.fc1.weight"]
    assert torch.allclose(weight, 2 * state["model"]["decoder.layers.0.fc1.weight"])


def test_adams_moments_are_cut_like_the_weights(checkpoints):
    old, new = read_checkpoint(checkpoints.pruned), read_checkpoint(checkpoints.small)
    before, after = model_of(old, "old"), model_of(new, "new")
    plan = make_plan(before)
    indices = [
        {name: i for i, (name, _) in enumerate(model.named_parameters())}
        for model in (before, after)
    ]
    for name, kept, dim in (
        ("encoder.layers.0.fc1.weight", plan["encoder.layers.0"], 0),
        ("encoder.layers.0.fc2.weight", plan["encoder.layers.0"], 1),
        ("encoder.layers.0.self_attn.v_proj.weight", torch.arange(8, 48), 0),
        ("encoder.layers.0.self_attn.out_proj.weight", torch.arange(8, 48), 1),
    ):
        entry = old["last_optimizer_state"]["state"][indices[0][name]]
        found = new["last_optimizer_state"]["state"][indices[1][name]]
        assert torch.equal(found["exp_avg"], entry["exp_avg"].index_select(dim, kept))
        assert torch.equal(found["exp_avg_sq"], entry["exp_avg_sq"].index_select(dim, kept))
        assert found["step"] == entry["step"]
    constant = indices[1]["decoder.layers.1.encoder_attn.bias"]
    was = indices[0]["decoder.layers.1.encoder_attn.out_proj.bias"]
    assert torch.equal(
        new["last_optimizer_state"]["state"][constant]["exp_avg"],
        old["last_optimizer_state"]["state"][was]["exp_avg"],
    )


def test_the_flattened_moments_of_fp16_training_are_cut_alike(checkpoints):
    state = read_checkpoint(checkpoints.pruned)
    model = model_of(state, "pruned")
    plan, each = make_plan(model), state["last_optimizer_state"]
    names = ("exp_avg", "exp_avg_sq")
    flat = {n: torch.cat([e[n].flatten() for e in each["state"].values()]) for n in names}
    group = {**each["param_groups"][0], "params": [0]}
    flattened = {"state": {0: {"step": 3, **flat}}, "param_groups": [group], "loss_scale": 128}

    expected = cut_optimizer_state(each, model, plan)["state"].values()
    found = cut_optimizer_state(flattened, model, plan)

    assert found["loss_scale"] == 128 and found["state"][0]["step"] == 3
    for n in names:
        joined = torch.cat([entry[n].flatten() for entry in expected])
        assert torch.equal(found["state"][0][n], joined)


def test_a_parameter_without_moments_has_none_after_the_cut_either(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    prune_(model)
    model.decoder.layers[0].fc1.bias.requires_grad = False
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for parameter in parameters[3:]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    smaller = compact(model, plan := make_plan(model))
    state = cut_optimizer_state(optimizer.state_dict(), model, plan)
    kept = [p for p in smaller.parameters() if p.requires_grad]
    assert len(state["param_groups"][0]["params"]) == len(kept)
    assert sorted(state["state"]) == list(range(3, len(kept)))
    assert all(state["state"][i]["exp_avg"].shape == kept[i].shape for i in range(3, len(kept)))


def test_half_precision_weights_stay_half_precision(checkpoints, tmp_path):
    state = read_checkpoint(checkpoints.pruned)
    state["model"] = {
        name: weight.half() if weight.is_floating_point() else weight
        for name, weight in state["model"].items()
    }
    torch.save(state, tmp_path / "half.pt")
    main([str(tmp_path / "half.pt"), str(tmp_path / "out.pt")])
    weights = read_checkpoint(tmp_path / "out.pt")["model"]
    assert weights["decoder.layers.0.fc2.bias"].dtype == torch.float16
    assert shapes(model_of(read_checkpoint(tmp_path / "out.pt"), "out"))["decoder.layers.0"] == 48


def test_a_dense_checkpoint_stays_what_it_is_and_is_told_so(checkpoints, tmp_path, capsys):
    main([str(checkpoints.dense), str(tmp_path / "out.pt")])
    assert "nothing to do" in capsys.readouterr().out
    state = read_checkpoint(tmp_path / "out.pt")
    assert "per_layer_config" not in state["cfg"]["model"]
    assert state["last_optimizer_state"] is None


def test_a_tolerance_zeroes_small_weights_first(checkpoints, tmp_path, capsys):
    main([str(checkpoints.dense), str(tmp_path / "out.pt"), "--tolerance", "10"])
    model = model_of(read_checkpoint(tmp_path / "out.pt"), "out")
    assert attention_blocks(model) == []
    assert "decoder.layers.1 neurons" in capsys.readouterr().out


def test_a_compact_checkpoint_is_only_written_when_it_matches(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr("neuroprune_fairseq.compact.cutting.fold_constants_", lambda *_: None)
    state = read_checkpoint(checkpoints.pruned)
    state["model"]["decoder.layers.0.fc1.bias"][:] = 1.0
    torch.save(state, tmp_path / "in.pt")
    with pytest.raises(SystemExit, match="does not match.*nothing was written"):
        main([str(tmp_path / "in.pt"), str(tmp_path / "out.pt")])
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


def test_nothing_is_overwritten_without_being_asked(checkpoints, tmp_path, capsys):
    out = tmp_path / "out.pt"
    out.write_text("mine")
    with pytest.raises(SystemExit):
        main([str(checkpoints.pruned), str(out)])
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    main([str(checkpoints.pruned), str(out), "--overwrite"])
    assert "encoder.layers.0" in read_checkpoint(out)["cfg"]["model"].per_layer_config


def damaged(state, kind):
    if kind == "settings":
        state["cfg"]["model"].per_layer_config["encoder.layers.0"]["intermediate_size"] = 1000
    elif kind == "sizes":
        state["cfg"]["model"].per_layer_config = "gone"
    elif kind == "weights":
        del state["model"]["decoder.layers.0.fc1.weight"]
    elif kind == "embeddings":
        state["model"] = {}
    else:
        state["cfg"]["model"].arch = "lstm"
    return state


@pytest.mark.parametrize("kind", ["settings", "sizes", "weights", "embeddings", "architecture"])
def test_a_damaged_checkpoint_gets_one_line(checkpoints, tmp_path, kind):
    path = tmp_path / "damaged.pt"
    torch.save(damaged(read_checkpoint(checkpoints.small), kind), path)
    with pytest.raises(SystemExit) as left:
        main([str(path), str(tmp_path / "out.pt")])
    assert str(left.value).startswith("neuroprune_fairseq: error: ")
    assert "\n" not in str(left.value)
    assert not (tmp_path / "out.pt").exists()


def test_a_model_with_parts_that_cannot_be_cut_is_refused(checkpoints, tmp_path):
    state = read_checkpoint(checkpoints.dense)
    state["cfg"]["model"].scale_heads = True
    torch.save(state, tmp_path / "scaled.pt")
    with pytest.raises(SystemExit, match="--scale-heads cannot be made compact"):
        main([str(tmp_path / "scaled.pt"), str(tmp_path / "out.pt")])
