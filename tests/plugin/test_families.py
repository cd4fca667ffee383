"""Every task family, with every pruner: whole runs, killed ones and compact ones."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import dataclass

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.tasks import TASK_REGISTRY
from fairseq.trainer import Trainer
from families import HEADS, NEURONS, stack, train_on

from neuroprune_fairseq.cli import compact
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.plugin.flags import TaskFlags
from neuroprune_fairseq.plugin.registration import TASKS
from neuroprune_fairseq.structure import all_attention, attention_blocks, mlp_blocks

ENCODER, DECODER = stack("encoder", 1), stack("decoder", 1)


@dataclass(frozen=True)
class Family:
    data: str  # folder of families.make_data
    task: str
    criterion: str
    flags: str
    stacks: tuple[str, ...] = (*ENCODER, *DECODER)
    modules: int = 3  # of attention: encoder self, decoder self, cross

    @property
    def arguments(self):
        names = ["--task", f"{self.task}_neuroprune", "--criterion", self.criterion]
        return [*names, *self.flags.split(), *self.stacks]


SMOOTHED = "label_smoothed_cross_entropy_neuroprune"
ROBERTA = {"stacks": tuple(ENCODER), "modules": 1}
TEXT = "--tokens-per-sample 16 --sample-break-mode eos"
SENTENCES = "--arch roberta_base --max-positions 32 --init-token 0 --separator-token 2"
FAMILIES = {
    "translation": Family(
        "pairs", "translation", SMOOTHED, "--arch transformer --label-smoothing 0.1"
    ),
    "multilingual": Family(
        "pairs",
        "translation_multi_simple_epoch",
        "cross_entropy_neuroprune",
        "--arch transformer --share-all-embeddings --langs de,en --lang-pairs de-en,en-de "
        "--encoder-langtok src --decoder-langtok --batch-size 16 --max-tokens 400",
    ),
    "mbart": Family(
        "pairs",
        "translation_from_pretrained_bart",
        SMOOTHED,
        "--arch mbart_base --langs de,en --label-smoothing 0.1",
    ),
    "levenshtein": Family(
        "pairs",
        "translation_lev",
        "nat_loss_neuroprune",
        "--arch levenshtein_transformer --share-all-embeddings --label-smoothing 0.1",
    ),
    "language model": Family(
        "text",
        "language_modeling",
        "cross_entropy_neuroprune",
        f"--arch transformer_lm {TEXT}",
        tuple(DECODER),
        modules=1,
    ),
    "adaptive softmax": Family(
        "text",
        "language_modeling",
        "adaptive_loss_neuroprune",
        f"--arch transformer_lm {TEXT} --adaptive-softmax-cutoff 6 --ddp-backend legacy_ddp",
        tuple(DECODER),
        modules=1,
    ),
    "masked language model": Family(
        "text",
        "masked_lm",
        "masked_lm_neuroprune",
        f"--arch roberta_base --max-positions 32 {TEXT} --mask-prob 0.4",
        **ROBERTA,
    ),
    "denoising": Family(
        "text",
        "denoising",
        "cross_entropy_neuroprune",
        f"--arch bart_base {TEXT} --mask 0.3 --replace-length 1 --rotate 0",
    ),
    "classification": Family(
        "sentences",
        "sentence_prediction",
        "sentence_prediction_neuroprune",
        f"{SENTENCES} --num-classes 2",
        **ROBERTA,
    ),
    "regression": Family(
        "sentences",
        "sentence_prediction",
        "sentence_prediction_neuroprune",
        f"{SENTENCES} --num-classes 1 --regression-target",
        **ROBERTA,
    ),
}
PENALTIES = "--attn-penalty-weight 0.01 --mlp-penalty-weight 0.01"
PRUNERS = {
    "threshold": f"--head-distance-threshold 100 {PENALTIES}",  # all heads are similar
    "targets": f"--target-heads 2 --target-attn-sparsity 0.9 --target-mlp-sparsity 0.3 "
    f"--target-interval 1 {PENALTIES}",
    "dsp": "--pruner dsp --target-heads 2 --cooldown-updates 2",
    "voita": "--pruner voita --gate-updates 2 --score-lr 5 --l0-penalty-weight 1e-4",
    "michel": "--pruner michel --target-heads 2 --prune-updates 2 --prune-steps 2",
    "cofi": "--pruner cofi --target-sparsity 0.5 --gate-updates 2 --score-lr 5",
}
# Each family with one pruner, and each pruner, in the quick tests.
QUICK = {(family, list(PRUNERS)[i % len(PRUNERS)]) for i, family in enumerate(FAMILIES)}
PAIRS = [
    pytest.param(family, pruner, marks=() if (family, pruner) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for pruner in PRUNERS
]
# Two epochs of three updates; gates are folded in the first, targets reached in the second.
RUN = "--max-epoch 2 --no-epoch-checkpoints --save-interval-updates 4".split()
KILLED_IN = 5  # the update, one after a checkpoint in the middle of the second epoch


class Killed(BaseException):
    """As SIGKILL: nothing of ours or fairseq's catches it."""


@pytest.fixture(scope="session")
def run_of(data, tmp_path_factory):
    """The folder of a run of (family, pruner, with or without --compact), made once."""
    made = {}

    def make(family, pruner, *flags):
        if (family, pruner, flags) not in made:
            folder = made[family, pruner, flags] = tmp_path_factory.mktemp("run")
            train(data, folder, family, pruner, *flags)
        return made[family, pruner, flags]

    return make


def train(data, folder, family, pruner, *flags):
    arguments = [*FAMILIES[family].arguments, *PRUNERS[pruner].split(), *RUN]
    return train_on(data / FAMILIES[family].data, folder, *arguments, *flags)


def train_and_kill(monkeypatch, *run):
    train_step, steps = Trainer.train_step, []

    def step_or_die(trainer, *args, **kwargs):
        steps.append(1)
        if len(steps) == KILLED_IN:
            raise Killed
        return train_step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "train_step", step_or_die)
        train(*run)


def load_with_batch(path, data, family):
    """Model, settings, task and a batch of its data, as fairseq's own tools load a checkpoint."""
    where = {"data": str(data / FAMILIES[family].data)}
    [model], cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], where)
    task.load_dataset("valid")
    iterator = task.get_batch_iterator(task.dataset("valid"), max_sentences=8)
    return model, cfg, task, next(iterator.next_epoch_itr(shuffle=False))


def load(path, data, family):
    """The model, and its validation loss."""
    model, cfg, task, batch = load_with_batch(path, data, family)
    torch.manual_seed(1)  # of the Levenshtein Transformer's noise
    loss, size, _ = task.valid_step(batch, model, task.build_criterion(cfg.criterion))
    return model, float(loss) / float(size)


def epoch_lines(folder):
    return [json.loads(line) for line in (folder / "neuroprune.jsonl").read_text().splitlines()]


def expected_heads(family, pruner, folder):
    """What a run ends with."""
    modules = FAMILIES[family].modules
    if pruner in ("voita", "cofi"):  # find their own number
        heads = epoch_lines(folder)[-1]["heads_kept"]
        assert heads < modules * HEADS
        return heads
    return modules if pruner == "threshold" else 2


def assert_same_run(one, other):
    """Weights, optimizer and log of two runs are equal bit for bit."""
    ours, theirs = (read_checkpoint(folder / "checkpoint_last.pt") for folder in (one, other))
    assert ours["model"].keys() == theirs["model"].keys()
    for name, value in theirs["model"].items():
        assert torch.equal(ours["model"][name], value), name
    moments = [state["last_optimizer_state"]["state"] for state in (ours, theirs)]
    for index, values in moments[1].items():
        assert torch.equal(moments[0][index]["exp_avg"], values["exp_avg"])
    assert epoch_lines(one) == epoch_lines(other)


@pytest.mark.parametrize(("family", "pruner"), PAIRS)
def test_a_run_ends_with_the_right_heads_and_loads_again(family, pruner, run_of, data):
    folder = run_of(family, pruner)
    model, loss = load(folder / "checkpoint_last.pt", data, family)
    assert len(attention_blocks(model)) == FAMILIES[family].modules
    found = measure(model)
    assert found["heads_kept"] == expected_heads(family, pruner, folder)
    assert torch.tensor(loss).isfinite()
    if pruner == "targets":
        assert found["attn_sparsity"] == pytest.approx(0.9, abs=0.005)
        # Neurons that were left without an input go as a whole, which is much of so few.
        assert 0.295 <= found["mlp_sparsity"] <= 0.3 + 2 / NEURONS


@pytest.mark.parametrize("flags", [(), ("--compact",)], ids=["whole", "compact"])
@pytest.mark.parametrize(("family", "pruner"), PAIRS)
def test_a_run_that_is_killed_and_resumed_is_the_same_run(
    family, pruner, flags, run_of, data, tmp_path, monkeypatch
):
    run = (data, tmp_path, family, pruner, *flags)
    train_and_kill(monkeypatch, *run)
    train(*run)
    assert_same_run(tmp_path, run_of(family, pruner, *flags))


@pytest.mark.parametrize(("family", "pruner"), PAIRS)
def test_a_run_that_compacts_ends_with_the_right_heads_and_loads_again(
    family, pruner, run_of, data
):
    folder = run_of(family, pruner, "--compact")
    model, loss = load(folder / "checkpoint_last.pt", data, family)
    heads = [block.num_heads for block in all_attention(model)]
    assert len(heads) == FAMILIES[family].modules
    assert sum(heads) == expected_heads(family, pruner, folder)
    assert torch.tensor(loss).isfinite()


@pytest.mark.parametrize(("family", "pruner"), PAIRS)
def test_a_model_made_compact_after_its_run_computes_the_same(
    family, pruner, run_of, data, tmp_path
):
    folder = run_of(family, pruner)
    paths = folder / "checkpoint_last.pt", tmp_path / "small.pt"
    compact.main([str(path) for path in paths])
    (before, expected), (after, loss) = (load(path, data, family) for path in paths)
    assert loss == pytest.approx(expected, rel=1e-5)
    heads = sum(block.num_heads for block in all_attention(after))
    assert heads == expected_heads(family, pruner, folder)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (before, after)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(("family", "pruner"), sorted(QUICK))
def test_in_training_the_loss_of_a_batch_gains_the_penalties_of_its_model(
    family, pruner, run_of, data
):
    path = run_of(family, pruner) / "checkpoint_last.pt"
    model, cfg, task, batch = load_with_batch(path, data, family)
    cfg.criterion.attn_penalty_weight, cfg.criterion.mlp_penalty_weight = 0.3, 0.5
    criterion, losses = task.build_criterion(cfg.criterion), []
    if hasattr(task, "inject_noise"):
        batch["prev_target"] = task.inject_noise(batch["target"])
    for criterion.penalties.released in (False, True):
        torch.manual_seed(1)  # of dropout
        loss, size, _ = criterion(model.train(), batch)
        losses.append(loss.item())
    rows = [torch.cat(block.prunable_weights).abs().sum(0) for block in attention_blocks(model)]
    expected = 0.3 * sum(row.sqrt().sum().item() for row in rows)
    for weight in (weight for block in mlp_blocks(model) for weight in block.prunable_weights):
        missing = (weight.abs() < 1e-4).float().mean(1)
        expected += 0.5 * (missing * weight.abs().sum(1)).sum().item()
    assert losses[0] - losses[1] == pytest.approx(float(size) * expected, rel=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_declares_every_flag_of_the_pruners_with_its_default(name):
    parser = ArgumentParser(allow_abbrev=False)
    TASK_REGISTRY[f"{name}_neuroprune"].add_args(parser)
    declared = {action.dest: action.default for action in parser._actions}
    flags = {key: flag.default for key, flag in TaskFlags.__dataclass_fields__.items()}
    told = {key for key, default in flags.items() if str(default).startswith("${")}
    assert {key: declared[key] for key in flags.keys() - told} == {
        key: flags[key] for key in flags.keys() - told
    }
    assert "data" in declared, "and the task's own"
