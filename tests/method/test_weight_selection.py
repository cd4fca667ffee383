"""Which weights go: those that sorting all scores would name."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from neuroprune_fairseq.method import pieces
from neuroprune_fairseq.method.weight_selection import count_lowest, zero_lowest_

SHAPES = [(7, 11), (50,), (3, 4, 5), (1, 1), (13, 9)]


def given(scores):
    """Scores as zero_lowest_ takes them, in pieces."""
    return [partial(score.flatten().split, 10) for score in scores]


def zero_by_sorting_(weights, scores, count):
    """A stable sort of all scores: of equal ones the first go."""
    order = torch.argsort(torch.cat([score.flatten() for score in scores]), stable=True)
    lowest = torch.zeros(len(order), dtype=torch.bool)
    lowest[order[: max(0, count)]] = True
    for weight, mask in zip(weights, lowest.split([weight.numel() for weight in weights])):
        weight.masked_fill_(mask.view_as(weight), 0.0)


def draw(kind, shape, generator):
    if kind == "many ties":
        return torch.randint(0, 4, shape, generator=generator) / 3
    score = torch.randn(shape, generator=generator).square()
    if kind == "zeros":
        return score * (torch.rand(shape, generator=generator) < 0.4)
    if kind == "equal upper bits":
        return 1.0 + score.clamp(max=1.0) * 2**-10
    if kind == "all sizes":  # subnormal and infinite ones among them
        return 10.0 ** (torch.rand(shape, generator=generator) * 100 - 50)
    return score


KINDS = ["random", "many ties", "zeros", "equal upper bits", "all sizes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [-1, 0, 1, 2, 60, 100, 200, 304, 305, 306])
def test_those_go_that_a_stable_sort_of_all_scores_puts_first(kind, count):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    for _ in range(5):
        scores = [draw(kind, shape, generator) for shape in SHAPES]
        weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
        expected = [weight.clone() for weight in weights]
        zero_by_sorting_(expected, scores, count)
        zero_lowest_(weights, given(scores), count)
        assert all(map(torch.equal, weights, expected))
        assert sum(int(weight.eq(0).sum()) for weight in weights) == min(max(0, count), 305)


def test_the_limit_is_the_count_th_score_and_its_equals_are_counted():
    scores = given([torch.tensor([5.0, 1.0, 2.0]), torch.tensor([2.0, 2.0, 0.0])])
    found = [count_lowest(scores, count) for count in range(1, 7)]
    assert found == [(0.0, 1), (1.0, 1), (2.0, 1), (2.0, 2), (2.0, 3), (5.0, 1)]


def test_the_lowest_scores_of_all_weights_together_go_whatever_the_magnitudes():
    weights = [torch.tensor([[1.0, 9.0], [2.0, 8.0]]), torch.tensor([7.0, 3.0, 6.0])]
    scores = [torch.tensor([[5.0, 1.0], [6.0, 3.0]]), torch.tensor([2.0, 7.0, 3.0])]
    zero_lowest_(weights, given(scores), 3)
    assert weights[0].tolist() == [[1.0, 0.0], [2.0, 0.0]]  # of two equal ones the first goes
    assert weights[1].tolist() == [0.0, 3.0, 6.0]


def test_pieces_are_views_of_all_tensors_in_step(monkeypatch):
    monkeypatch.setattr(pieces, "CACHED", 4)
    first, second = torch.zeros(3, 3), torch.arange(9.0)
    for one, other in pieces.pieces(first, second):
        assert len(one) == len(other) <= 4
        one.copy_(other)
    assert first.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    assert [len(piece) for (piece,) in pieces.pieces(first.to("meta"))] == [9]
    assert not list(pieces.pieces(torch.zeros(0)))[0][0].numel()
