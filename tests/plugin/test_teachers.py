"""--distill-from: what the training loss becomes, for every kind of model; runs that use it."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from families import train_on
from test_families import FAMILIES, SMOOTHED, Killed, load_with_batch
from test_precision import SMALL, _no_gpu_needed  # noqa: F401  (a fixture)
from test_task import assert_equal_weights, epoch_lines

from neuroprune_fairseq.plugin.distillation import _adaptive_log_probabilities

ONE_EPOCH = ("--max-epoch", 1, "--no-epoch-checkpoints")
TEACHABLE = [family for family in FAMILIES if family != "levenshtein"]


@pytest.fixture(scope="module")
def teachers(data, tmp_path_factory):
    """A short run of a family without pruning, made once for each: its last checkpoint."""
    made = {}

    def make(family):
        if family not in made:
            folder, arguments = tmp_path_factory.mktemp("teacher"), FAMILIES[family].arguments
            made[family] = train_on(data / FAMILIES[family].data, folder, *arguments, *ONE_EPOCH)
        return made[family]

    return make


def by_loops(teacher, student, counted):
    """KL in fp64 of (tokens, V) log-probabilities, summed over what is counted."""
    total = 0.0
    for p, q, counts in zip(teacher.double(), student.double(), counted):
        if counts:
            total += sum((a.exp() * (a - b)).item() for a, b in zip(p, q))
    return total


def expected_loss(family, model, teacher, batch):
    """What the criterion of a family should learn from a teacher, in its own words."""
    kwargs, counted = {}, batch["target"].ne(1)
    if family == "masked language model":
        kwargs = {"masked_tokens": counted}
        counted = counted[counted]
    if family in ("classification", "regression"):
        kwargs = {"features_only": True, "classification_head_name": "sentence_classification_head"}
        counted = torch.ones(len(batch["target"]), dtype=torch.bool)
    with torch.no_grad():
        outputs = [each(**batch["net_input"], **kwargs) for each in (teacher.eval(), model)]
    if family == "regression":
        return (outputs[0][0] - outputs[1][0]).square().sum().item()
    pairs = zip((teacher, model), outputs)
    probabilities = [m.get_normalized_probs(out, log_probs=True).flatten(0, -2) for m, out in pairs]
    return by_loops(*probabilities, counted.flatten())


@pytest.mark.parametrize("family", TEACHABLE)
def test_the_loss_of_every_criterion_learns_from_a_teacher(family, teachers, data):
    model, cfg, task, batch = load_with_batch(teachers(family), data, family)
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    for module in model.modules():  # no dropout: what is expected is computed beside it
        if hasattr(module, "p"):
            module.p = 0.0
    model.train()
    plain, size, _ = task.build_criterion(cfg.criterion)(model, batch)
    cfg.criterion.distill_from, cfg.criterion.distill_weight = str(teachers(family)), 0.3
    criterion = task.build_criterion(cfg.criterion)
    loss, size_too, logged = criterion(model, batch)
    learnt = expected_loss(family, model, teacher, batch)
    assert learnt > 1e-3
    assert logged["distill_loss"].item() == pytest.approx(learnt, rel=1e-3)
    assert loss.item() == pytest.approx(0.7 * plain.item() + 0.3 * learnt, rel=1e-4)
    assert float(logged["loss"]) == pytest.approx(plain.item()) and float(size) == float(size_too)
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "fc1" in n)
    assert not list(criterion.parameters()) and not criterion.state_dict()
    with torch.no_grad():
        loss, _, logged = criterion(model.eval(), batch)
    assert "distill_loss" not in logged
    assert loss.item() == pytest.approx(float(logged["loss"])), "validation is the plain one"


def test_the_adaptive_softmax_has_fairseqs_probabilities_and_a_gradient(teachers, data):
    model, _, _, batch = load_with_batch(teachers("adaptive softmax"), data, "adaptive softmax")
    softmax = model.decoder.adaptive_softmax
    with torch.no_grad():
        features = model(**batch["net_input"])[0]
        expected = softmax.get_log_prob(features, None)
    found = _adaptive_log_probabilities(softmax, features.requires_grad_())
    torch.testing.assert_close(found, expected)
    found[..., -1].sum().backward()
    assert features.grad.abs().sum() > 0


def test_a_model_of_edits_has_no_teacher(teachers, data):
    model, cfg, task, batch = load_with_batch(teachers("levenshtein"), data, "levenshtein")
    cfg.criterion.distill_from = str(teachers("levenshtein"))
    batch["prev_target"] = task.inject_noise(batch["target"])
    with pytest.raises(SystemExit, match="--distill-from: .* no probabilities of tokens"):
        task.build_criterion(cfg.criterion)(model.train(), batch)


def build(path, task=None, **settings):
    settings = {"sentence_avg": False, "distill_from": path, **settings}
    if task is None:
        task = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: 1))
    return CRITERION_REGISTRY[SMOOTHED].build_criterion(
        CRITERION_DATACLASS_REGISTRY[SMOOTHED](**settings), task
    )


def with_models(criterion, *models):
    criterion.distillation._teachers = [model.requires_grad_(False) for model in models]
    return criterion


@pytest.mark.parametrize("top_k", [0, 5])
def test_two_micro_batches_give_the_gradient_of_the_joined_batch(build_model, sample, top_k):
    model, teacher = build_model(dropout=0.0).train(), build_model(seed=7)
    sample["target"] = sample["target"].clone()  # the source is the same tensor
    sample["target"][2, 5:] = 1  # padding
    sample["ntokens"] = 19
    criterion = with_models(build("a", distill_top_k=top_k, distill_temperature=2.0), teacher)

    def gradient(*batches):
        model.zero_grad()
        sizes = 0
        for batch in batches:
            loss, size, _ = criterion(model, batch)
            loss.backward()
            sizes += size
        return [parameter.grad / sizes for parameter in model.parameters()]

    def rows(some):
        inputs = {name: value[some] for name, value in sample["net_input"].items()}
        target = sample["target"][some]
        return {"net_input": inputs, "target": target, "ntokens": int(target.ne(1).sum())}

    for ours, whole in zip(gradient(rows([0]), rows([1, 2])), gradient(sample)):
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-4)


def test_what_is_no_target_token_teaches_nothing(build_model, sample):
    model, teacher = build_model(dropout=0.0).train(), build_model(seed=7)
    losses = []
    for prefix in (0, 2):
        criterion = with_models(build("a", ignore_prefix_size=prefix), teacher)
        losses.append(criterion(model, sample)[2]["distill_loss"].item())
    sample["target"] = sample["target"].clone()
    sample["target"][:, :2] = 1
    criterion = with_models(build("a"), teacher)
    assert criterion(model, sample)[2]["distill_loss"].item() == pytest.approx(losses[1])
    assert losses[1] < losses[0]


def test_of_several_teachers_the_probabilities_are_averaged(build_model, sample):
    model, teachers = build_model(dropout=0.0).train(), [build_model(seed=s) for s in (7, 8)]
    criterion = with_models(build("a:b"), *teachers)
    with torch.no_grad():
        student, *others = (
            m.get_normalized_probs(m(**sample["net_input"]), log_probs=True).flatten(0, 1)
            for m in (model, *teachers)
        )
    mean = ((others[0].exp() + others[1].exp()) / 2).log()
    expected = by_loops(mean, student, torch.ones(21))
    assert criterion(model, sample)[2]["distill_loss"].item() == pytest.approx(expected, rel=1e-3)


def test_distill_loss_is_a_meter_of_bits_per_token_over_all_workers():
    logs = [{"loss": 8.0, "nll_loss": 8.0, "ntokens": 4, "sample_size": 4, "nsentences": 1}] * 2
    logs = [{**log, "distill_loss": value} for log, value in zip(logs, (2.0, 6.0))]
    with metrics.aggregate() as found:
        CRITERION_REGISTRY[SMOOTHED].reduce_metrics(logs)
    values = found.get_smoothed_values()
    assert values["distill_loss"] == pytest.approx(1 / 0.6931, abs=1e-3)
    assert values["loss"] == pytest.approx(2 / 0.6931, abs=1e-3)
    with metrics.aggregate() as found:
        CRITERION_REGISTRY[SMOOTHED].reduce_metrics(
            [{k: log[k] for k in log if k[0] != "d"} for log in logs]
        )
    assert "distill_loss" not in found.get_smoothed_values()


def test_a_criterion_can_be_built_without_its_teacher(build_model, sample):
    """fairseq-validate builds the criterion of a checkpoint whose teacher may be gone."""
    loss, _, _ = build("missing.pt")(build_model().eval(), sample)
    assert loss.isfinite()


# Whole runs.


@pytest.fixture(scope="module")
def dense(checkpoints):
    """A checkpoint of two layers, as trained, and its compact form."""
    return checkpoints


def test_a_weight_of_zero_leaves_the_run_as_it_is_bit_for_bit(run_train, dense):
    flags = (*SMALL[:4], "--max-epoch", 1, "--update-freq", 2, "--no-epoch-checkpoints")
    plain = run_train(*flags)
    taught = run_train(*flags, "--distill-from", dense.dense, "--distill-weight", 0, name="zero")
    assert_equal_weights(taught, plain)
    learnt = run_train(*flags, "--distill-from", dense.dense, name="half")
    assert any(
        not torch.equal(learnt["model"][name], plain["model"][name]) for name in plain["model"]
    )
    assert learnt["model"].keys() == plain["model"].keys()
    optimizers = [state["last_optimizer_state"]["state"] for state in (learnt, plain)]
    assert len(optimizers[0]) == len(optimizers[1])


@pytest.mark.parametrize(
    "flags",
    [
        ("--target-heads", 2, "--target-sparsity", 0.6, "--target-interval", 1, "--shrink"),
        ("--pruner", "dsp", "--target-heads", 2, "--cooldown-updates", 2),
        ("--pruner", "voita", "--l0-penalty-weight", 1e-4, "--distill-top-k", 5),
        ("--pruner", "michel", "--target-heads", 2, "--prune-updates", 2, "--prune-steps", 2),
    ],
    ids=["targets", "dsp", "voita", "michel"],
)
def test_a_pruned_run_with_teachers_that_is_killed_and_resumed_is_the_same_run(
    run_train, dense, tmp_path, monkeypatch, flags
):
    flags = (*SMALL[:4], *flags, "--max-epoch", 2, "--no-epoch-checkpoints")
    flags = (*flags, "--distill-from", f"{dense.dense}:{dense.small}", "--distill-temperature", 2)
    flags = (*flags, "--save-interval-updates", 4)
    whole = run_train(*flags, name="whole")
    train_step, steps = Trainer.train_step, []

    def step_or_die(trainer, *args, **kwargs):
        steps.append(1)
        if len(steps) == 14:  # in the second epoch of nine updates
            raise Killed
        return train_step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "train_step", step_or_die)
        run_train(*flags)
    assert_equal_weights(run_train(*flags), whole)
    assert epoch_lines(tmp_path / "run") == epoch_lines(tmp_path / "whole")


@pytest.mark.parametrize("precision", ["--fp16", "--bf16", "--memory-efficient-fp16", "--amp"])
def test_teachers_follow_the_students_precision(run_train, dense, precision, monkeypatch):
    seen = []
    method = torch.nn.Module.__call__

    def note(module, *args, **kwargs):
        seen.append(module) if not module.training and hasattr(module, "encoder") else None
        return method(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", note)
    state = run_train(
        *SMALL, precision, "--max-update", 2, "--distill-from", dense.dense, "--disable-validation"
    )
    dtype = {"--bf16": torch.bfloat16, "--amp": torch.float32}.get(precision, torch.float16)
    assert seen and all(p.dtype == dtype for model in seen for p in model.parameters())
    assert all(not p.requires_grad for model in seen for p in model.parameters())
    assert all(value.isfinite().all() for value in state["model"].values())
