"""neuroprune-compact for every family of fairseq's Transformers, on checkpoints of real runs."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.models.roberta import RobertaModel
from fairseq_cli import eval_lm, generate, validate
from families import HEADS, NEURONS, USER_DIR, prune_, stack, train_on

from neuroprune_fairseq.cli.compact import main
from neuroprune_fairseq.compact import shapes
from neuroprune_fairseq.compact.cost import flops_per_token
from neuroprune_fairseq.compact.state import check_model
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import load_model, model_of
from neuroprune_fairseq.structure import all_attention, attention_blocks, mlp_blocks

# By family: the folder of its data, the flags of its run, its attention modules.
FAMILIES = {
    "bart": (
        "pairs",
        ["--task", "translation", "--arch", "bart_base", *stack("encoder"), *stack("decoder")],
        6,
    ),
    "transformer_lm": (
        "text",
        ["--task", "language_modeling", "--arch", "transformer_lm", "--tokens-per-sample", "16"]
        + [
            "--required-batch-size-multiple",
            "1",
            *stack("decoder"),
            "--share-decoder-input-output-embed",
        ],
        2,
    ),
    "roberta": (
        "sentences",
        ["--task", "sentence_prediction", "--arch", "roberta_base", "--max-positions", "32"]
        + [*stack("encoder"), "--num-classes", "2", "--init-token", "0", "--separator-token", "2"]
        + ["--criterion", "sentence_prediction"],
        2,
    ),
    "nonautoregressive": (
        "pairs",
        ["--task", "translation_lev", "--arch", "nonautoregressive_transformer"]
        + [*stack("encoder"), *stack("decoder"), "--noise", "full_mask"]
        + ["--criterion", "nat_loss", "--share-all-embeddings"],
        6,
    ),
    "multilingual": (
        "pairs",
        ["--task", "multilingual_translation", "--arch", "multilingual_transformer"]
        + [*stack("encoder"), *stack("decoder"), "--lang-pairs", "de-en,en-de"]
        + ["--share-encoders", "--share-decoders", "--share-all-embeddings"],
        6,
    ),
    "separate": (
        "pairs",
        ["--task", "multilingual_translation", "--arch", "multilingual_transformer"]
        + [*stack("encoder", 1), *stack("decoder", 1), "--lang-pairs", "de-en,en-de"],
        6,
    ),
}


def run_train(data, family, folder, *flags):
    """fairseq-train; returns the path of its last checkpoint."""
    where, own, _ = FAMILIES[family]
    return train_on(data / where, folder, *own, "--max-epoch", "1", *flags)


@pytest.fixture(scope="session")
def checkpoints(data, tmp_path_factory):
    """By family: (pruned, compact) checkpoints of a run; made when first asked for."""
    made = {}

    def make(family) -> tuple[Path, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            dense = run_train(data, family, folder)
            state = read_checkpoint(dense)
            model = model_of(state, dense)
            prune_(model)
            state["model"] = {name: model.state_dict()[name] for name in state["model"]}
            torch.save(state, folder / "pruned.pt")
            main([str(folder / "pruned.pt"), str(folder / "small.pt"), "--keep-optimizer"])
            made[family] = (folder / "pruned.pt", folder / "small.pt")
        return made[family]

    return make


def load(path, data, family):
    """As fairseq's own tools load a checkpoint."""
    overrides = {"data": str(data / FAMILIES[family][0])}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides)
    return models[0].eval(), task


@torch.no_grad()
def outputs(model, family):
    """The teacher-forced logits of a random batch, for every language pair and head."""
    tokens = torch.randint(4, 12, (3, 7), generator=torch.Generator().manual_seed(7))
    if family == "transformer_lm":
        return [model(tokens)[0]]
    tokens[:, -1] = 2
    if family == "roberta":
        tokens[:, 0] = 0
        masked = torch.zeros(tokens.shape, dtype=torch.bool)
        masked[:, 2] = True
        name = "sentence_classification_head"
        head = model(tokens, features_only=True, classification_head_name=name)[0]
        return [model(tokens, masked_tokens=masked)[0], head]
    inputs = (tokens, torch.full((3,), 7), tokens.roll(1, 1))
    if family == "nonautoregressive":
        found = model(*inputs, tgt_tokens=tokens)
        return [found["word_ins"]["out"], found["length"]["out"]]
    return [part(*inputs)[0] for part in getattr(model, "models", {"": model}).values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_compact_checkpoint_loads_in_fairseq_and_equals_the_pruned_one(
    family, data, checkpoints
):
    before, after = (load(path, data, family)[0] for path in checkpoints(family))
    for expected, found in zip(outputs(before, family), outputs(after, family)):
        assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    parameters = [sum(p.numel() for p in model.parameters()) for model in (before, after)]
    assert parameters[1] < parameters[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_found_once_and_has_the_sizes_that_are_left(family, checkpoints):
    pruned, small = (load_model(path) for path in checkpoints(family))
    number = FAMILIES[family][2]
    assert len(attention_blocks(pruned)) == len(all_attention(small)) == number
    heads = [HEADS - 1 - i % (HEADS - 1) for i in range(number)]
    heads[-1] = 0
    assert [block.num_heads for block in all_attention(small)] == heads
    neurons = [block.fc1.out_features for block in mlp_blocks(small)]
    assert neurons == [NEURONS - 5 - i for i in range(len(neurons))]
    kinds = {block.kind for block in attention_blocks(pruned)}
    expected = {"transformer_lm": {"decoder_self"}, "roberta": {"encoder_self"}}
    assert kinds == expected.get(family, {"encoder_self", "decoder_self", "decoder_cross"})
    flops = [flops_per_token(model) for model in (pruned, small)]
    assert all(after < before or before == 0 for before, after in zip(*flops))


def test_a_shared_layer_is_named_as_often_as_in_the_state_dict(checkpoints):
    state = read_checkpoint(checkpoints("multilingual")[1])
    config = state["cfg"]["model"].per_layer_config
    assert config["models.de-en.encoder.layers.1"] == config["models.en-de.encoder.layers.1"]
    layers = {name.rpartition(".self_attn.")[0] for name in state["model"] if ".self_attn." in name}
    assert config.keys() == layers


@pytest.mark.parametrize("family", FAMILIES)
def test_training_goes_on_from_it_with_the_originals_flags(family, data, checkpoints, tmp_path):
    small = checkpoints(family)[1]
    resumed = run_train(
        data, family, tmp_path / "a", "--restore-file", str(small), "--max-epoch", "2"
    )
    tuned = run_train(data, family, tmp_path / "b", "--finetune-from-model", str(small))
    for path, updates in ((resumed, 2), (tuned, 1)):
        state = read_checkpoint(path)
        assert shapes(load_model(path)) == shapes(load_model(small))
        done = state["optimizer_history"][-1]["num_updates"]
        first = read_checkpoint(small)["optimizer_history"][-1]["num_updates"]
        assert done == updates * first
    again = tmp_path / "again.pt"
    main([str(tuned), str(again)])
    assert shapes(load_model(again)) == shapes(load_model(small))


@pytest.mark.filterwarnings("ignore:'config' is validated")  # fairseq's, as it loads it
def test_a_checkpoint_from_before_fairseq_had_cfg_is_made_compact_too(data, checkpoints, tmp_path):
    state = read_checkpoint(checkpoints("transformer_lm")[0])
    where, own, _ = FAMILIES["transformer_lm"]
    arguments = [str(data / where), *own, "--optimizer", "adam", "--user-dir", USER_DIR]
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    del state["cfg"], args.user_dir
    torch.save({**state, "args": args}, tmp_path / "old.pt")
    main([str(tmp_path / "old.pt"), str(tmp_path / "small.pt")])
    expected, found = (
        outputs(load(path, data, "transformer_lm")[0], "transformer_lm")[0]
        for path in (tmp_path / "old.pt", tmp_path / "small.pt")
    )
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_parts_that_cannot_be_cut_are_refused_in_one_line(checkpoints):
    model = load_model(checkpoints("transformer_lm")[0])
    check_model(model, "it")
    for change, message in (
        (lambda layer: setattr(layer.self_attn, "add_zero_attn", True), "attends to more than"),
        (lambda layer: delattr(layer, "activation_fn"), "does not tell its activation"),
    ):
        broken = copy.deepcopy(model)
        change(broken.decoder.layers[1])
        with pytest.raises(SystemExit, match=f"it: decoder.layers.1.* {message}"):
            check_model(broken, "it")
    with pytest.raises(SystemExit, match="no attention"):
        check_model(torch.nn.Linear(2, 2), "it")


def translations(path, data, capsys, *flags):
    capsys.readouterr()
    arguments = [str(data / "pairs"), "--path", str(path), "--user-dir", USER_DIR, "--cpu"]
    arguments += ["--num-workers", "0", "--beam", "2", "--max-len-b", "9"]
    parser = options.get_generation_parser()
    generate.main(options.parse_args_and_arch(parser, [*arguments, *flags]))
    return re.findall(r"^D-\d+\t\S+\t(.*)$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("family", ["bart", "nonautoregressive", "multilingual", "separate"])
def test_fairseq_generate_gives_the_translations_of_the_pruned_model(
    family, data, checkpoints, capsys
):
    flags = []
    if family == "nonautoregressive":
        flags = ["--task", "translation_lev", "--iter-decode-max-iter", "0", "--beam", "1"]
    elif family != "bart":
        flags = ["--task", "multilingual_translation", "--lang-pairs", "de-en,en-de"]
        flags += ["--source-lang", "en", "--target-lang", "de"]
    before, after = (translations(path, data, capsys, *flags) for path in checkpoints(family))
    assert before == after and len(before) == 8


def test_fairseq_eval_lm_finds_the_same_perplexity(data, checkpoints, caplog):
    found = []
    for path in checkpoints("transformer_lm"):
        caplog.clear()
        arguments = [str(data / "text"), "--path", str(path), "--user-dir", USER_DIR, "--cpu"]
        arguments += ["--num-workers", "0", "--tokens-per-sample", "16"]
        with caplog.at_level("INFO"):
            parser = options.get_eval_lm_parser()
            eval_lm.main(options.parse_args_and_arch(parser, arguments))
        found.append(float(re.search(r"Perplexity: (\d+\.\d+)", caplog.text)[1]))
    assert found[0] == found[1] and math.isfinite(found[0])


def test_fairseq_validate_finds_the_same_loss(data, checkpoints, caplog):
    found = []
    for path in checkpoints("roberta"):
        caplog.clear()
        arguments = [str(data / "sentences"), "--path", str(path), "--user-dir", USER_DIR, "--cpu"]
        arguments += ["--num-workers", "0", "--batch-size", "8", "--log-format", "simple"]
        arguments += ["--task", "sentence_prediction", "--num-classes", "2", "--init-token", "0"]
        arguments += ["--criterion", "sentence_prediction", "--separator-token", "2"]
        with caplog.at_level("INFO"):
            parser = options.get_validation_parser()
            validate.main(options.parse_args_and_arch(parser, arguments))
        found.append(re.findall(r"\| loss (\S+)", caplog.text)[-1])
    assert found[0] == found[1]


def test_the_hub_interface_predicts_with_its_classification_head(data, checkpoints):
    predicted = []
    for path in checkpoints("roberta"):
        hub = RobertaModel.from_pretrained(
            *(str(path.parent), path.name, str(data / "sentences")), bpe=None, user_dir=USER_DIR
        )
        tokens = torch.tensor([0, 5, 6, 7, 2])
        predicted.append(hub.eval().predict("sentence_classification_head", tokens))
    assert torch.allclose(*predicted, atol=1e-6)
