"""CoFi's masks: what they are expected to remove, what stays, and whole runs."""

from __future__ import annotations

import math

import pytest
import torch
from test_baselines_gates import NO_DROPOUT, logits
from test_task import assert_equal_weights, epoch_lines, load

from neuroprune_fairseq.compact.cost_table import layer_shapes
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.pruners.cofi import Cofi, CofiFlags, Masks
from neuroprune_fairseq.pruners.gates import Gates, fold_, living_heads, living_neurons
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

HEADS, NEURONS, SUBLAYERS = 108, 12 * 96, 18 + 12
COFI = ("--pruner", "cofi", "--target-sparsity", 0.5, "--score-lr", 1)


def random_scores(seed=3):
    generator = torch.Generator().manual_seed(seed)
    size = HEADS + NEURONS + SUBLAYERS
    return 3 * torch.randn(size, generator=generator, dtype=torch.float64)


def opens(score):
    """P(gate > 0) of Louizos et al., Eq. 12, with Voita's constants."""
    return 1 / (1 + math.exp(-(score - 0.33 * math.log(0.1 / 1.1))))


def test_the_expected_sparsity_is_that_of_loops_over_the_parts(build_model):
    model, scores = build_model(), random_scores().tolist()
    heads, rest = scores[:HEADS], scores[HEADS:]
    neurons, sublayers = iter(rest[:NEURONS]), iter(rest[NEURONS:])
    kept, heads = 0.0, iter(heads)
    for block in attention_blocks(model):
        module = opens(next(sublayers))
        for _ in range(block.num_heads):
            kept += module * opens(next(heads)) * 3 * block.head_dim * 48
    for mlp in mlp_blocks(model):
        module = opens(next(sublayers))
        kept += sum(module * opens(next(neurons)) * 2 * 48 for _ in range(mlp.fc1.out_features))
    found = Masks(model).expected_sparsity(random_scores()).item()
    assert found == pytest.approx(1 - kept / (18 * 3 * 48 * 48 + 12 * 2 * 48 * 96), rel=1e-9)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
def test_those_most_likely_open_stay_as_many_as_the_target_leaves(build_model, sparsity):
    model, scores = build_model(), random_scores()
    masks = Masks(model)
    gates = masks.final_gates(scores, sparsity)
    owners = [i for i in range(18) for _ in range(6)] + [
        18 + i for i in range(12) for _ in range(96)
    ]
    likely = [opens(s) for s in scores.tolist()]
    chance = [likely[i] * likely[HEADS + NEURONS + owner] for i, owner in enumerate(owners)]
    full = sum(masks.weights.tolist())
    # By hand: parts in the order of their chance until the next one is too much.
    left, stay = (1 - sparsity) * full, set()
    for part in sorted(range(len(owners)), key=lambda i: -chance[i]):
        left -= masks.weights[part].item()
        if left < 0:
            break
        stay.add(part)
    assert set(gates.nonzero().flatten().tolist()) == stay
    sure = {i for i in stay if scores[i] > 2.4 and scores[HEADS + NEURONS + owners[i]] > 2.4}
    assert sure and all(gates[i] == 1 for i in sure)


@pytest.mark.parametrize("training", [True, False])
def test_gates_of_neurons_can_be_folded_into_the_weights(build_model, sample, training):
    model = build_model(**NO_DROPOUT).train(training)
    values = torch.rand(HEADS + NEURONS, generator=torch.Generator().manual_seed(5))
    values = values.where(values > 0.4, 0.0)
    gates = Gates(model, neurons=True)
    (gates.use if training else gates.evaluate_with)(values)
    gated = logits(model, sample)
    gates.remove()
    fold_(model, values)
    torch.testing.assert_close(logits(model, sample), gated)
    living = torch.cat([living_heads(model), living_neurons(model)])
    assert torch.equal(living, values > 0)


def test_a_run_ends_with_the_sparsity_that_was_asked_for_in_whole_parts(run_train, tmp_path):
    run_train("--max-epoch", 3, *COFI, "--gate-updates", 14, "--compact")
    first, second, last = epoch_lines(tmp_path / "run")
    assert first["sparsity_asked"] == 0.5 and first["total_sparsity"] < 0.01
    assert 0.2 < first["sparsity_expected"] < 0.8
    model = load(tmp_path / "run" / "checkpoint_last.pt")
    assert 0.5 <= measure(model)["total_sparsity"] <= last["total_sparsity"] < 0.52
    assert second["total_sparsity"] == pytest.approx(last["total_sparsity"], abs=0.002)
    shapes = layer_shapes(model)
    assert sum(s.neurons for s in shapes) < NEURONS and last["heads_kept"] < HEADS


@pytest.mark.parametrize("more", [(), ("--update-freq", 2)])
def test_a_run_resumed_while_masks_learn_is_the_same_run(run_train, tmp_path, more):
    flags = ("--max-epoch", 2, *COFI, "--save-interval-updates", 3, *more)
    whole = run_train(*flags, name="whole")
    middle = sorted((tmp_path / "whole").glob("checkpoint_1_*.pt"))[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint_last.pt").write_bytes(middle.read_bytes())
    assert_equal_weights(run_train(*flags), whole)
    assert epoch_lines(tmp_path / "run")[-1] == epoch_lines(tmp_path / "whole")[-1]


@pytest.mark.parametrize("sparsity", [None, 0.0, 1.0, float("nan")])
def test_a_sparsity_that_cannot_be_is_refused_in_one_line(sparsity):
    with pytest.raises(SystemExit, match="--target-sparsity .* must be a share between 0 and 1"):
        Cofi(CofiFlags(target_sparsity=sparsity))
