"""A run starts only from a checkpoint that fits it, and ends in one line where it cannot go on."""

from __future__ import annotations

import copy
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from test_task import epoch_lines

from neuroprune_fairseq.compact.check import behaviour, difference
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.plugin import fitting, guards

SMALL = ("--encoder-layers", 1, "--decoder-layers", 1)


# Targets that are dropped on the way.


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [
        ("--target-sparsity", 0.6),
        ("--target-heads", 9),
        ("--target-sparsity", 0.6, "--target-heads", 9),
    ],
    ids=["sparsity", "heads", "both"],
)
def test_zeros_do_not_grow_back_in_a_run_resumed_without_its_targets(run_train, tmp_path, targets):
    pace = ("--target-update", 6, "--target-interval", 2)
    run_train(*SMALL, *targets, *pace, "--max-epoch", 1)
    (reached,) = epoch_lines(tmp_path / "run")
    run_train(*SMALL, "--max-epoch", 3)
    last = epoch_lines(tmp_path / "run")[-1]
    assert last["epoch"] == 3
    if "--target-heads" in targets:
        assert last["heads_kept"] == reached["heads_kept"] == 9
    if "--target-sparsity" in targets:
        assert reached["total_sparsity"] == pytest.approx(0.6, abs=5e-3)
    assert last["total_sparsity"] >= reached["total_sparsity"] > 0.1


# The checkpoint that a run starts from.


def test_weights_of_an_older_fairseq_fit_the_model_that_takes_them(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    weights, prefix = dict(model.state_dict()), "encoder.layers.0.self_attn."
    for kind in ("weight", "bias"):
        parts = [weights.pop(f"{prefix}{name}_proj.{kind}") for name in "qkv"]
        weights[f"{prefix}in_proj_{kind}"] = torch.cat(parts)
    state = {"model": weights, "cfg": {"model": {"_name": "transformer_18x6_tiny"}}}
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fitting.check_model("old.pt", state, model, Namespace())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_another_dictionary_is_named_as_what_does_not_fit(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    weights = dict(model.state_dict())
    for name in [name for name in weights if "embed_tokens" in name or "output_proj" in name]:
        weights[name] = torch.zeros(9, 48)
    state = {"model": weights, "cfg": {"model": {}}}
    with pytest.raises(SystemExit, match=r"is \(9, 48\) there and \(24, 48\) here.*dictionary"):
        fitting.check_model("other.pt", state, model, Namespace())


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        {"state": 7},
        {"early_stopping": 7},
        {"holds_weights": None},
        {"schedule": {"start": "soon", "end": 6, "interval": 2}},
        {"schedule": {"begin": 1}},
        {"start": [1, 2]},
        {"pace": 7},
        {"replaced": 7},
        {"head_importance": torch.ones(3)},
        {"weight_importance": "much"},
    ],
    ids=str,
)
def test_a_damaged_state_of_the_targets_is_told_in_one_line(run_train, tmp_path, damage):
    flags = (*SMALL, "--target-heads", 9, "--target-sparsity", 0.5, "--target-update", 9)
    state = run_train(*flags, "--max-epoch", 1, "--disable-validation")
    own = state["extra_state"]["TranslationNeuropruneTask"]
    (own if damage.keys() <= own.keys() else own["state"]).update(damage)
    torch.save(state, tmp_path / "run" / "checkpoint_last.pt")
    with pytest.raises(SystemExit, match="the pruner's state .* is damaged; take") as exit_:
        run_train(*flags, "--max-epoch", 2)
    assert "\n" not in str(exit_.value)


# The machine and the text.


def test_a_shared_memory_that_cannot_be_written_to_is_named_with_the_way_out(monkeypatch):
    def lock():
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(guards.multiprocessing, "Lock", lock)
    settings = SimpleNamespace(fp16=False, num_workers=0, **{"memory_efficient_fp16": False})
    settings.fp16_no_flatten_grads = settings.cpu = False
    guards._check_machine(settings)
    settings.num_workers = 2
    with pytest.raises(SystemExit, match="--num-workers 2 .*/dev/shm.*--num-workers 0 .Read-only"):
        guards._check_machine(settings)


@pytest.mark.slow
def test_empty_translations_have_a_bleu_of_0_to_choose_checkpoints_by(run_train):
    nothing = '{"max_len_a": 0, "max_len_b": 0, "min_len": 0}'
    best = ("--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric")
    flags = ("--max-epoch", 1, "--eval-bleu", "--eval-bleu-args", nothing, *best)
    state = run_train(*SMALL, *flags)
    assert state["extra_state"]["best"] == 0


@pytest.mark.slow
def test_a_run_with_eval_bleu_is_resumed(run_train, tmp_path):
    flags = (*SMALL, "--eval-bleu", "--save-interval-updates", 5)
    run_train(*flags, "--max-epoch", 1)
    state = run_train(*flags, "--max-epoch", 2)
    assert state["extra_state"]["train_iterator"]["epoch"] == 3
    torch.load(tmp_path / "run" / "checkpoint_1_5.pt", weights_only=True)


def test_translations_with_words_are_counted_as_they_are():
    logs = [{"_bleu_totals_0": 0}, {"_bleu_totals_0": 3}, {}]
    guards.count_empty_translations_(logs)
    assert logs == [{"_bleu_totals_0": 0}, {"_bleu_totals_0": 3}, {}]


# Models that a cut is not to blame for.


@torch.no_grad()
def test_a_model_of_zeros_alone_equals_itself(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    for parameter in model.parameters():
        parameter.zero_()
    assert measure(model)["total_sparsity"] == 1.0
    assert difference(behaviour(model, beam=False), behaviour(model)) is None


@torch.no_grad()
def test_weights_too_large_to_compute_with_are_not_blamed_on_the_cut(build_model):
    model = build_model(encoder_layers=1, decoder_layers=1)
    model.encoder.layers[0].fc1.weight.fill_(1e30)
    with pytest.raises(SystemExit, match="the model's own logits are not finite"):
        difference(behaviour(model), behaviour(model))
