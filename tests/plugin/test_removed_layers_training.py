"""Layers that go in a real run of fairseq-train: held at zero, cut out, resumed, translated."""

from __future__ import annotations

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq_cli import eval_lm, generate, validate
from families import USER_DIR, stack, train_on
from test_shrinking import losses  # noqa: F401  (a fixture)
from test_task import epoch_lines

from neuroprune_fairseq.cli import compact as compact_command
from neuroprune_fairseq.compact import shapes
from neuroprune_fairseq.compact.modules import RemovedLayer
from neuroprune_fairseq.compact.sizes import sizes_in
from neuroprune_fairseq.files.checkpoint import model_settings, read_checkpoint
from neuroprune_fairseq.files.models import load_model, model_of
from neuroprune_fairseq.method.pruning import pruned_layers, zero_layers_
from neuroprune_fairseq.pruners.neuroprune import NeuroPrune

GONE = ["encoder.layers.1", "decoder.layers.0", "decoder.layers.1"]
SIZES = ("--encoder-layers", 2, "--decoder-layers", 3)
PRE_NORM = ("--encoder-normalize-before", "--decoder-normalize-before")
FLAGS = (*SIZES, "--max-epoch", 3, "--head-distance-threshold", 0, "--clip-norm", 0)
FLAGS += ("--dropout", 0)  # a layer that is gone draws no random numbers


@pytest.fixture
def layers_go(monkeypatch):
    """At the end of the first epoch, as the decision of a pruner."""
    end_epoch = NeuroPrune.end_epoch

    def end(self, run):
        entries = end_epoch(self, run)
        if run.epoch == 1:
            zero_layers_(run.model, GONE)
        return entries

    monkeypatch.setattr(NeuroPrune, "end_epoch", end)


def removed(path):
    modules = load_model(path).named_modules()
    return [name for name, module in modules if isinstance(module, RemovedLayer)]


def test_a_layer_stays_at_zero_and_without_it_the_run_is_the_same_run(
    run_train, losses, layers_go, tmp_path  # noqa: F811
):  # fmt: skip
    run_train(*FLAGS, *PRE_NORM, name="whole")
    whole = [*losses]
    losses.clear()
    state = run_train(*FLAGS, *PRE_NORM, "--compact", name="small")
    assert pruned_layers(load_model(tmp_path / "whole" / "checkpoint_last.pt")) == GONE
    assert removed(tmp_path / "small" / "checkpoint1.pt") in ([], GONE)
    assert removed(tmp_path / "small" / "checkpoint_last.pt") == GONE
    assert losses == pytest.approx(whole, abs=1e-4)
    assert not [name for name in state["model"] if name.startswith(tuple(GONE))]
    lines = [epoch_lines(tmp_path / name)[-1] for name in ("whole", "small")]
    for name in ("heads_kept", "attn_sparsity", "mlp_sparsity", "total_sparsity"):
        assert lines[0][name] == pytest.approx(lines[1][name], abs=1e-6)
    records = {record["module"]: record for record in lines[1]["modules"]}
    assert len(records) == 2 + 2 * 3
    assert records["decoder.layers.1.encoder_attn"]["heads_kept"] == []
    assert records["decoder.layers.2.encoder_attn"]["heads_kept"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("norms", [(), PRE_NORM], ids=["post-norm", "pre-norm"])
def test_a_run_killed_after_layers_went_is_resumed_as_the_same_run(
    run_train, losses, layers_go, tmp_path, norms  # noqa: F811
):  # fmt: skip
    flags = (*FLAGS, *norms, "--compact", "--save-interval-updates", 14)
    first = run_train(*flags)
    updates = first["optimizer_history"][-1]["num_updates"]
    expected = losses[14 - updates :]
    (tmp_path / "run" / "checkpoint_2_14.pt").replace(tmp_path / "run" / "checkpoint_last.pt")
    losses.clear()
    again = run_train(*flags)
    assert losses == pytest.approx(expected, abs=1e-5) and len(losses) == updates - 14
    for name, weight in first["model"].items():
        assert torch.allclose(weight, again["model"][name], atol=1e-6), name
    assert removed(tmp_path / "run" / "checkpoint_last.pt") == GONE


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory):
    """By kind of norms: a checkpoint after training without its layers."""
    patch, made = pytest.MonkeyPatch(), {}
    for norms in ("post", "pre"):
        folder = tmp_path_factory.mktemp(norms)
        flags = ["--arch", "transformer_18x6_tiny", *map(str, SIZES), "--share-all-embeddings"]
        flags += [*(PRE_NORM if norms == "pre" else ()), "--max-epoch", "1", "--compact"]
        flags += ["--task", "translation_neuroprune", "--head-distance-threshold", "0"]
        flags += ["--criterion", "label_smoothed_cross_entropy_neuroprune"]
        patch.setattr(
            NeuroPrune, "end_epoch", lambda self, run: zero_layers_(run.model, GONE) or {}
        )
        made[norms] = train_on(corpus, folder, *flags)
    patch.undo()
    return made


@pytest.mark.parametrize("norms", ["post", "pre"])
def test_such_a_checkpoint_translates_starts_runs_and_is_compacted_twice(
    norms, small, corpus, tmp_path, run_train, capsys
):
    path, twice = small[norms], tmp_path / "twice.pt"
    assert removed(path) == GONE
    compact_command.main([str(path), str(twice), "--keep-optimizer"])
    assert "decoder.layers.1.encoder_attn heads" in capsys.readouterr().out
    assert shapes(load_model(twice)) == shapes(load_model(path))

    arguments = [str(corpus), "--path", str(twice), "--user-dir", USER_DIR, "--cpu", "--beam", "3"]
    arguments += ["--num-workers", "0", "--max-len-b", "9", "--print-alignment"]
    arguments += ["--required-batch-size-multiple", "1"]
    parser = options.get_generation_parser()
    generate.main(options.parse_args_and_arch(parser, arguments))
    assert capsys.readouterr().out.count("\nD-") == 20

    flags = [*SIZES, *(PRE_NORM if norms == "pre" else ())]
    for number, start in enumerate(("--restore-file", "--finetune-from-model")):
        name = f"run{number}"
        run_train(*flags, "--max-epoch", 2, start, twice, name=name)
        assert removed(tmp_path / name / "checkpoint_last.pt") == GONE
    assert read_checkpoint(tmp_path / "run0" / "checkpoint_last.pt")["cfg"]["model"].arch


TASKS = ("translation", "language_modeling")
PLUGIN = {task: f"{task}_neuroprune" for task in (*TASKS, "sentence_prediction")}
# Other families: (data, flags, the layer that goes).
FAMILIES = {
    "bart": (
        "pairs",
        ["--task", "translation", "--arch", "bart_base", *stack("encoder"), *stack("decoder", 3)],
        "decoder.layers.2",
    ),
    "transformer_lm": (
        "text",
        ["--task", "language_modeling", "--arch", "transformer_lm", "--tokens-per-sample", "16"]
        + ["--required-batch-size-multiple", "1", *stack("decoder", 3)],
        "decoder.layers.1",
    ),
    "roberta": (
        "sentences",
        ["--task", "sentence_prediction", "--arch", "roberta_base", "--max-positions", "32"]
        + [*stack("encoder", 3), "--num-classes", "2", "--init-token", "0"]
        + ["--separator-token", "2", "--criterion", "sentence_prediction"],
        "encoder.sentence_encoder.layers.0",
    ),
    "multilingual": (
        "pairs",
        ["--task", "multilingual_translation", "--arch", "multilingual_transformer"]
        + [*stack("encoder"), *stack("decoder", 3), "--lang-pairs", "de-en,en-de", *PRE_NORM]
        + ["--share-encoders", "--share-decoders", "--share-all-embeddings"],
        "models.de-en.decoder.layers.1",
    ),
}


def run_tool(family, path, data, tmp_path):
    """fairseq's own tool for the family."""
    arguments = [str(data / FAMILIES[family][0]), "--path", str(path), "--user-dir", USER_DIR]
    arguments += ["--cpu", "--num-workers", "0"]
    if family == "transformer_lm":
        arguments += ["--tokens-per-sample", "16"]
        eval_lm.main(options.parse_args_and_arch(options.get_eval_lm_parser(), arguments))
    elif family == "roberta":
        parser = options.get_validation_parser()
        arguments += ["--task", "sentence_prediction", "--num-classes", "2", "--init-token", "0"]
        arguments += ["--criterion", "sentence_prediction", "--separator-token", "2"]
        validate.main(options.parse_args_and_arch(parser, [*arguments, "--batch-size", "8"]))
    else:
        arguments += ["--beam", "3", "--max-len-b", "9"]
        if family == "multilingual":
            arguments += ["--task", "multilingual_translation", "--lang-pairs", "de-en,en-de"]
            arguments += ["--source-lang", "en", "--target-lang", "de"]
        parser = options.get_generation_parser()
        generate.main(options.parse_args_and_arch(parser, arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_and_runs_without_a_layer(family, data, tmp_path):
    where, flags, layer = FAMILIES[family]
    dense = train_on(data / where, tmp_path / "dense", *flags, "--max-epoch", "1")
    state = read_checkpoint(dense)
    model = model_of(state, dense)
    zero_layers_(model, [layer])
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    torch.save(state, tmp_path / "pruned.pt")
    own = flags
    if family == "multilingual":  # no task that prunes
        small, start = tmp_path / "small.pt", ["--restore-file", tmp_path / "small.pt"]
        compact_command.main([str(tmp_path / "pruned.pt"), str(small), "--keep-optimizer"])
    else:
        own = [PLUGIN.get(flag, flag) for flag in flags]
        start = ["--finetune-from-model", str(tmp_path / "pruned.pt"), "--compact"]
        small = train_on(data / where, tmp_path / "small", *own, *start, "--max-epoch", "1")
    assert removed(small) == [layer]
    names = [layer, layer.replace("de-en", "en-de")] if family == "multilingual" else [layer]
    sizes = sizes_in(model_settings(read_checkpoint(small)))
    assert sizes == {name: {"removed": True} for name in names}
    resumed = train_on(data / where, tmp_path / "small", *own, *start, "--max-epoch", "2")
    assert removed(resumed) == [layer]
    (again, *_), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(resumed)], {"data": str(data / where)}
    )
    assert isinstance(again.get_submodule(layer), RemovedLayer)
    run_tool(family, resumed, data, tmp_path)
