"""Choosing K of n, relaxed and hard, against loops and numbers worked by hand."""

from __future__ import annotations

import math
import random

import pytest
import torch

from neuroprune_fairseq.pruners.top_k import (
    annealed_temperature,
    gumbel_noise,
    hard_top_k,
    relaxed_top_k,
    straight_through_top_k,
)

TEMPERATURES = [1.0, 0.1, 1e-2, 1e-4, 1e-6, 1e-8]


def random_scores(seed, n=108, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator) * spread


def reference_top_k(scores, k, temperature):
    """The recursion of the paper in plain numbers: r, p = softmax(r / t), r + log(1 - p)."""
    r, total = list(scores), [0.0] * len(scores)
    for _ in range(k):
        largest = max(r)
        powers = [math.exp((value - largest) / temperature) for value in r]
        p = [power / sum(powers) for power in powers]
        total = [old + new for old, new in zip(total, p)]
        r = [value + math.log(1 - share) for value, share in zip(r, p)]
    return total


@pytest.mark.parametrize("temperature", [2.0, 0.5, 0.1])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_relaxation_equals_the_papers_recursion(k, temperature):
    rng = random.Random(k)
    scores = [rng.uniform(-1, 1) for _ in range(7)]
    gates = relaxed_top_k(torch.tensor(scores, dtype=torch.float64), k, temperature)
    torch.testing.assert_close(gates.tolist(), reference_top_k(scores, k, temperature))


def test_two_of_two_equal_scores_share_each_softmax():
    # p = (1/2, 1/2), then log(1/2) is added to both: again (1/2, 1/2).
    gates = relaxed_top_k(torch.zeros(2, dtype=torch.float64), 2, 1.0)
    assert gates.tolist() == pytest.approx([1.0, 1.0])


def test_two_of_three_worked_by_hand():
    # Temperature 1, e^r = (2, 1, 1): p = (1/2, 1/4, 1/4). Times 1 - p: (1, 3/4, 3/4), whose
    # shares are (2/5, 3/10, 3/10).
    scores = torch.tensor([math.log(2), 0.0, 0.0], dtype=torch.float64)
    assert relaxed_top_k(scores, 2, 1.0).tolist() == pytest.approx([0.9, 0.55, 0.55])


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 6, 36, 90, 108])
def test_the_relaxed_gates_sum_to_k_and_are_not_negative(k, temperature):
    gates = relaxed_top_k(random_scores(k), k, temperature)
    assert gates.sum().item() == pytest.approx(k)
    assert gates.min() >= 0


@pytest.mark.parametrize("k", [1, 6, 36, 90, 108])
def test_at_the_final_temperature_the_relaxation_is_hard(k):
    scores = random_scores(k, spread=10)
    torch.testing.assert_close(relaxed_top_k(scores, k, 1e-8), hard_top_k(scores, k))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 36, 90])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_the_gradient_is_finite_at_every_temperature(k, temperature, spread):
    torch.manual_seed(k)
    scores = random_scores(k, spread=spread).requires_grad_()
    gates = relaxed_top_k(scores + gumbel_noise(torch.rand_like(scores)), k, temperature)
    (gates * random_scores(5)).sum().backward()
    assert scores.grad.isfinite().all()


def test_the_gradient_equals_finite_differences():
    scores = random_scores(3, n=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: relaxed_top_k(s, 3, 0.5), scores)


def test_adding_the_same_to_all_scores_changes_nothing():
    scores = random_scores(4)
    torch.testing.assert_close(relaxed_top_k(scores + 7, 20, 0.1), relaxed_top_k(scores, 20, 0.1))


def test_the_hard_choice_takes_the_first_of_equal_scores():
    scores = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0])
    assert hard_top_k(scores, 3).tolist() == [1, 1, 0, 1, 0]


def test_straight_through_is_hard_forward_and_the_identity_backward():
    scores = torch.tensor([0.3, -2.0, 5.0], requires_grad=True)
    gates = straight_through_top_k(scores, 2)
    assert gates.tolist() == [1.0, 0.0, 1.0]
    (gates * torch.tensor([2.0, 3.0, -4.0])).sum().backward()
    assert scores.grad.tolist() == [2.0, 3.0, -4.0]


def test_gumbel_noise_has_the_mean_and_variance_of_the_standard_gumbel():
    torch.manual_seed(6)
    noise = gumbel_noise(torch.rand(200_000, dtype=torch.float64))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)


def test_the_top_k_of_perturbed_scores_follows_their_softmax():
    # Gumbel-max: scores log 1, log 2, log 5 win with probability 1/8, 2/8, 5/8.
    torch.manual_seed(7)
    scores = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
    noise = gumbel_noise(torch.rand(4000, 3, dtype=torch.float64))
    wins = sum(hard_top_k(scores + row, 1) for row in noise) / 4000
    assert wins.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.025)


@pytest.mark.parametrize(
    ("updates", "temperature"), [(0, 1e-1), (7500, 10**-4.5), (15000, 1e-8), (20000, 1e-8)]
)
def test_the_temperature_falls_exponentially_and_then_stays(updates, temperature):
    assert annealed_temperature(0.1, 1e-8, updates, 15000) == pytest.approx(temperature)
