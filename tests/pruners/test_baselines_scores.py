"""The trainable scores behind the gates: normalisation, dropped updates, state."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from neuroprune_fairseq.pruners.scores import DEAD, GateScores
from neuroprune_fairseq.pruners.top_k import relaxed_top_k, straight_through_top_k


def test_the_score_gradient_is_the_mean_per_token_however_batches_are_cut():
    gradient = torch.tensor([3.0, -6.0, 1.0], dtype=torch.float64)
    results = []
    for parts in (1, 3):
        scores = GateScores(torch.tensor([0.5, 0.1, -0.2]), lr=0.2)
        for _ in range(parts):
            gates = scores.values * 2.0
            scores.gather(gates, gradient / parts, 30.0 / parts)
        seen = []
        scores._optimizer.register_step_pre_hook(
            lambda *_, s=scores, seen=seen: seen.append(s.values.grad.clone())
        )
        scores.step()
        results.append(scores.values.detach())
        torch.testing.assert_close(seen[0], 2.0 * gradient / 30.0)
    torch.testing.assert_close(*results)


def test_the_penalty_of_the_scores_is_per_token():
    scores = GateScores(torch.zeros(2), lr=0.1)
    seen = []
    scores._optimizer.register_step_pre_hook(lambda *_: seen.append(scores.values.grad.clone()))
    scores.gather(scores.values * 1.0, torch.tensor([50.0, 0.0]), 100.0)
    scores.step(penalty=lambda values: 3.0 * values.sum())
    assert seen[0].tolist() == [3.5, 3.0]


def test_a_dropped_update_and_an_overflow_leave_the_scores_alone():
    scores = GateScores(torch.zeros(3), lr=0.2)
    scores.gather(scores.values * 1.0, torch.ones(3), 10.0)
    scores.start_update()
    scores.gather(scores.values * 1.0, torch.tensor([math.inf, 1.0, 1.0]), 10.0)
    scores.step()
    assert scores.values.tolist() == [0.0, 0.0, 0.0]


def test_a_clipped_gradient_keeps_its_direction_and_small_ones_are_left_alone():
    # The gates' gradient (3, 4) has norm 5; gates = c * scores multiplies it by c.
    for factor, expected in ((100.0, [6.0, 8.0]), (1.5, [4.5, 6.0]), (0.0, [0.0, 0.0])):
        scores = GateScores(torch.zeros(2), lr=0.1, clip_ratio=2.0)
        scores.gather(scores.values * factor, torch.tensor([3.0, 4.0]), 1.0)
        assert scores._gradient.tolist() == pytest.approx(expected)


def test_scores_without_gradient_are_not_decayed():
    scores = GateScores(torch.tensor([1.0, -2.0]), lr=0.2)
    scores.step()
    assert scores.values.tolist() == [1.0, -2.0]


def test_scores_go_on_from_their_state_as_if_never_stopped():
    def train(scores, steps):
        for step in steps:
            gates = relaxed_top_k(scores.values, 2, 0.5)
            scores.gather(gates, torch.tensor([1.0, float(step), -1.0, 0.5]), 7.0)
            scores.step()
        return scores

    start = torch.tensor([0.3, 0.2, 0.1, 0.0])
    whole = train(GateScores(start, lr=0.2), range(6))
    state = copy.deepcopy(train(GateScores(start, lr=0.2), range(3)).state_dict())
    resumed = GateScores(torch.zeros(4), lr=0.2)
    resumed.load_state_dict(state)
    assert torch.equal(train(resumed, range(3, 6)).values, whole.values)


@pytest.mark.parametrize(
    "top_k", [lambda s: relaxed_top_k(s, 2, 1e-3), lambda s: straight_through_top_k(s, 2)]
)
def test_a_dead_head_is_never_chosen_and_its_score_never_moves(top_k):
    scores = GateScores(torch.tensor([DEAD, 0.0, -5.0]), lr=0.2)
    gates = top_k(scores.values)
    assert gates.tolist() == pytest.approx([0.0, 1.0, 1.0])
    scores.gather(gates, torch.tensor([0.0, 1.0, -1.0]), 5.0)
    scores.step()
    assert scores.values[0].item() == DEAD and scores.values.isfinite().all()
