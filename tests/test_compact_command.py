"""neuroprune-compact and what fairseq's command lines do with what it writes."""

from __future__ import annotations

import copy
import re
from argparse import Namespace

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.models.transformer import TransformerModel
from fairseq_cli import generate, interactive, train, validate

from neuroprune_fairseq.checkpoint import model_flags, read_checkpoint
from neuroprune_fairseq.compact import compact, shapes
from neuroprune_fairseq.compact.command import main
from neuroprune_fairseq.compact.cutting import make_plan
from neuroprune_fairseq.compact.files import model_of
from neuroprune_fairseq.compact.optimizer import cut_optimizer_state
from neuroprune_fairseq.pruning import zero_heads_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks
from tests.conftest import TRAIN_FLAGS, USER_DIR

SMALL = ["--encoder-layers", "2", "--decoder-layers", "2", "--max-epoch", "1", "--seed", "4"]
GENERATE = ["--user-dir", USER_DIR, "--beam", "3", "--max-len-b", "20", "--cpu"]
# fairseq's default of 8 loses the sentences that are left over in some builds of fairseq.
GENERATE += ["--num-workers", "0", "--required-batch-size-multiple", "1"]


@pytest.fixture(scope="session")
def checkpoints(corpus, tmp_path_factory):
    """Checkpoints of one tiny training: as trained, pruned, and compact with its optimizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    arguments = [str(corpus), *TRAIN_FLAGS, *SMALL, "--save-dir", str(folder), "--task"]
    arguments += [
        "translation_neuroprune",
        "--criterion",
        "label_smoothed_cross_entropy_neuroprune",
    ]
    train.main(options.parse_args_and_arch(options.get_training_parser(), arguments))
    dense, pruned, small = (folder / f"{name}.pt" for name in ("dense", "pruned", "small"))
    (folder / "checkpoint_last.pt").rename(dense)
    state = read_checkpoint(dense)
    model = model_of(state, str(dense))
    prune_(model)
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    torch.save(state, pruned)
    main([str(pruned), str(small), "--keep-optimizer"])
    return Namespace(dense=dense, pruned=pruned, small=small)


@torch.no_grad()
def prune_(model):
    """Other numbers of heads in every module, none in one; half of all neurons."""
    for heads, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(heads + 1))
    for block in mlp_blocks(model):
        block.fc1.weight[:30] = 0.0
        block.fc2.weight[:, 30:48] = 0.0


def run_generate(corpus, path, capsys, *flags):
    """The hypotheses and scores that fairseq-generate prints, by sentence."""
    capsys.readouterr()
    parser = options.get_generation_parser()
    arguments = [str(corpus), "--path", str(path), *GENERATE, *flags]
    generate.main(options.parse_args_and_arch(parser, arguments))
    found = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", capsys.readouterr().out, re.MULTILINE)
    return {int(number): (float(score), text) for number, score, text in found}


def assert_same_translations(expected, found):
    assert len(expected) == 20
    assert {n: text for n, (_, text) in expected.items()} == {n: t for n, (_, t) in found.items()}
    assert all(abs(expected[n][0] - found[n][0]) < 1e-4 for n in expected)


def test_fairseq_generate_gives_the_translations_of_the_pruned_model(corpus, checkpoints, capsys):
    expected = run_generate(corpus, checkpoints.pruned, capsys)
    assert_same_translations(expected, run_generate(corpus, checkpoints.small, capsys))


def test_a_compact_and_a_dense_model_make_an_ensemble(corpus, checkpoints, capsys):
    expected = run_generate(corpus, f"{checkpoints.pruned}:{checkpoints.dense}", capsys)
    found = run_generate(corpus, f"{checkpoints.small}:{checkpoints.dense}", capsys)
    assert_same_translations(expected, found)


def test_the_compact_checkpoint_is_smaller_and_plain(checkpoints):
    assert checkpoints.small.stat().st_size < 0.8 * checkpoints.pruned.stat().st_size
    state = torch.load(checkpoints.small, weights_only=True)
    settings = state["cfg"]["model"]
    assert settings.arch == settings._name == "neuroprune_compact"
    assert settings.neuroprune_arch == "transformer_18x6_tiny"
    assert settings.neuroprune_shapes["encoder.layers.0.self_attn"] == 5
    assert settings.neuroprune_shapes["decoder.layers.1.encoder_attn"] == 0
    assert settings.neuroprune_shapes["decoder.layers.1"] == 48


def test_the_hub_interface_loads_it(corpus, checkpoints):
    folder, name = str(checkpoints.small.parent), checkpoints.small.name
    hubs = [
        TransformerModel.from_pretrained(folder, file, str(corpus), user_dir=USER_DIR)
        for file in (checkpoints.pruned.name, name)
    ]
    expected, found = (hub.eval().translate("w1 w2 w3", beam=2, max_len_b=9) for hub in hubs)
    assert expected == found


def validation_loss(corpus, path, caplog):
    """What fairseq-validate logs."""
    caplog.clear()
    arguments = [str(corpus), "--user-dir", USER_DIR, "--path", str(path), "--cpu", "--task"]
    arguments += ["translation_neuroprune", "--num-workers", "0", "--log-format", "simple"]
    arguments += ["--max-tokens", "400", "--criterion", "label_smoothed_cross_entropy_neuroprune"]
    parsed = options.parse_args_and_arch(options.get_validation_parser(), arguments)
    with caplog.at_level("INFO"):
        validate.main(parsed)
    return float(re.findall(r"\| loss (\d+\.\d+)", caplog.text)[-1])


def test_fairseq_validate_finds_the_same_loss(corpus, checkpoints, caplog):
    expected = validation_loss(corpus, checkpoints.pruned, caplog)
    assert validation_loss(corpus, checkpoints.small, caplog) == expected


def test_fairseq_interactive_runs_it(corpus, checkpoints, capsys, tmp_path):
    text = tmp_path / "input"
    text.write_text("w1 w2 w3\n", encoding="utf-8")
    outputs = []
    for path in (checkpoints.pruned, checkpoints.small):
        capsys.readouterr()
        arguments = [str(corpus), "--path", str(path), *GENERATE, "--input", str(text)]
        parser = options.get_interactive_generation_parser()
        interactive.main(options.parse_args_and_arch(parser, arguments))
        outputs.append(re.findall(r"^H-0\t\S+\t(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert outputs[0] == outputs[1] and outputs[0]


def continue_training(corpus, folder, *flags):
    """fairseq-train with nothing said on the size of the model."""
    plain = TRAIN_FLAGS[: TRAIN_FLAGS.index("--arch")] + TRAIN_FLAGS[5:]
    arguments = [str(corpus), *plain, "--arch", "neuroprune_compact", "--save-dir", str(folder)]
    arguments += ["--task", "translation_neuroprune", *flags]
    arguments += ["--criterion", "label_smoothed_cross_entropy_neuroprune"]
    train.main(options.parse_args_and_arch(options.get_training_parser(), arguments))
    return checkpoint_utils.load_checkpoint_to_cpu(str(folder / "checkpoint_last.pt"))


def test_training_goes_on_from_it_and_lowers_its_loss(corpus, checkpoints, tmp_path, caplog):
    before = read_checkpoint(checkpoints.small)
    loss = validation_loss(corpus, checkpoints.small, caplog)

    restore = ["--restore-file", str(checkpoints.small), "--max-epoch", "4"]
    after = continue_training(corpus, tmp_path, *restore)

    assert after["extra_state"]["val_loss"] < loss
    # With its optimizer kept it goes on counting where it was.
    updates = [state["optimizer_history"][-1]["num_updates"] for state in (before, after)]
    assert updates[1] == 4 * updates[0]
    settings = after["cfg"]["model"]
    assert settings.neuroprune_shapes == before["cfg"]["model"].neuroprune_shapes
    assert settings.encoder_layers == 2


def test_training_prunes_on_and_the_result_can_be_made_compact_again(corpus, checkpoints, tmp_path):
    finetune = ["--finetune-from-model", str(checkpoints.small), "--max-epoch", "1"]
    continue_training(corpus, tmp_path, *finetune, "--head-distance-threshold", "0.6")
    again = tmp_path / "again.pt"
    main([str(tmp_path / "checkpoint_last.pt"), str(again)])

    sizes = [
        read_checkpoint(path)["cfg"]["model"].neuroprune_shapes
        for path in (checkpoints.small, again)
    ]
    assert sizes[0].keys() == sizes[1].keys()
    assert all(sizes[1][name] <= size for name, size in sizes[0].items())
    assert sum(sizes[1].values()) < sum(sizes[0].values())


def test_a_run_of_a_compact_model_is_resumed_from_its_save_dir(corpus, checkpoints, tmp_path):
    first = ["--finetune-from-model", str(checkpoints.small)]
    continue_training(corpus, tmp_path, *first, "--max-epoch", "1")
    state = continue_training(corpus, tmp_path, *first, "--max-epoch", "2")
    assert state["extra_state"]["train_iterator"]["epoch"] == 3


def test_training_without_a_compact_checkpoint_says_what_is_missing(corpus, checkpoints, tmp_path):
    with pytest.raises(SystemExit, match="--restore-file"):
        continue_training(corpus, tmp_path)
    with pytest.raises(SystemExit, match="neuroprune-compact first"):
        continue_training(corpus, tmp_path, "--restore-file", str(checkpoints.dense))


def test_the_flags_of_a_compact_model_can_be_listed(checkpoints):
    flags = model_flags(read_checkpoint(checkpoints.small))
    assert flags[:2] == ["--arch", "neuroprune_compact"]


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
    assert state["cfg"]["model"].arch == "transformer_18x6_tiny"
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
    assert read_checkpoint(out)["cfg"]["model"].arch == "neuroprune_compact"


def damaged(state, kind):
    if kind == "settings":
        state["cfg"]["model"].neuroprune_shapes = {"encoder.layers.0": 1000}
    elif kind == "sizes":
        state["cfg"]["model"].neuroprune_shapes = "gone"
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
