"""neuroprune-compact and what fairseq's command lines do with what it writes."""

from __future__ import annotations

import re

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.models.transformer import TransformerModel
from fairseq_cli import generate, interactive, train, validate

from neuroprune_fairseq.cli.compact import main
from neuroprune_fairseq.compact import shapes
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import load_model
from tests.conftest import TRAIN_FLAGS, USER_DIR

GENERATE = ["--user-dir", USER_DIR, "--beam", "3", "--max-len-b", "20", "--cpu"]
# fairseq's default of 8 loses the sentences that are left over in some builds of fairseq.
GENERATE += ["--num-workers", "0", "--required-batch-size-multiple", "1"]


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
    assert settings.arch == settings._name == "transformer_18x6_tiny"
    assert settings.per_layer_config["encoder.layers.0"] == {
        "intermediate_size": 48,
        "self_attn": {"num_attention_heads": 5, "heads": [1, 2, 3, 4, 5]},
    }
    gone = {"num_attention_heads": 0, "heads": []}
    assert settings.per_layer_config["decoder.layers.1"]["encoder_attn"] == gone


def test_equal_input_gives_equal_bytes_under_any_name(checkpoints, tmp_path):
    for name in ("one.pt", "another name.pt"):
        main([str(checkpoints.pruned), str(tmp_path / name), "--keep-optimizer"])
        assert (tmp_path / name).read_bytes() == checkpoints.small.read_bytes()


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
    """fairseq-train with the flags that the model was first trained with."""
    small = ["--encoder-layers", "2", "--decoder-layers", "2"]
    arguments = [str(corpus), *TRAIN_FLAGS, *small, "--save-dir", str(folder)]
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
    assert settings.per_layer_config == before["cfg"]["model"].per_layer_config


def test_training_prunes_on_and_the_result_can_be_made_compact_again(corpus, checkpoints, tmp_path):
    finetune = ["--finetune-from-model", str(checkpoints.small), "--max-epoch", "1"]
    continue_training(corpus, tmp_path, *finetune, "--head-distance-threshold", "0.6")
    again = tmp_path / "again.pt"
    main([str(tmp_path / "checkpoint_last.pt"), str(again)])

    sizes = [shapes(load_model(path)) for path in (checkpoints.small, again)]
    assert sizes[0].keys() == sizes[1].keys()
    assert all(sizes[1][name] <= size for name, size in sizes[0].items())
    assert sum(sizes[1].values()) < sum(sizes[0].values())


def test_a_run_of_a_compact_model_is_resumed_from_its_save_dir(corpus, checkpoints, tmp_path):
    first = ["--finetune-from-model", str(checkpoints.small)]
    continue_training(corpus, tmp_path, *first, "--max-epoch", "1")
    state = continue_training(corpus, tmp_path, *first, "--max-epoch", "2")
    assert state["extra_state"]["train_iterator"]["epoch"] == 3


def test_training_with_an_architecture_that_does_not_fit_says_so_in_one_line(
    corpus, checkpoints, tmp_path
):
    restore = ["--restore-file", str(checkpoints.small), "--encoder-layers", "1"]
    with pytest.raises(SystemExit, match="per_layer_config .* does not fit .*encoder.layers.1"):
        continue_training(corpus, tmp_path, *restore)


def test_fairseqs_own_task_trains_on_from_it_too(corpus, checkpoints, tmp_path):
    plain = ["--task", "translation", "--criterion", "label_smoothed_cross_entropy"]
    finetune = ["--finetune-from-model", str(checkpoints.small), "--max-epoch", "1"]
    state = continue_training(corpus, tmp_path, *finetune, *plain)
    weight = state["model"]["encoder.layers.0.self_attn.q_proj.weight"]
    assert len(weight) == 5 * 8


def test_a_compact_checkpoint_of_an_earlier_version_is_refused_in_one_line(
    corpus, checkpoints, tmp_path, capsys
):
    state, old = read_checkpoint(checkpoints.small), tmp_path / "old.pt"
    settings = state["cfg"]["model"]
    del settings.per_layer_config
    settings.arch = settings._name = "neuroprune_compact"
    settings.neuroprune_shapes = {"encoder.layers.0": 48}
    torch.save(state, old)
    message = "earlier version; run neuroprune-compact on the original"
    for use in (
        lambda: main([str(old), str(tmp_path / "out.pt")]),
        lambda: run_generate(corpus, old, capsys),
        lambda: continue_training(corpus, tmp_path, "--restore-file", str(old)),
    ):
        with pytest.raises(SystemExit, match=message):
            use()
