"""The loss of distillation against loops in fp64, numbers worked by hand, and autograd."""

from __future__ import annotations

import math

import pytest
import torch

from neuroprune_fairseq.method.distillation import coarse, distillation_loss


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def softmax(logits, temperature):
    """Of a list of numbers, in Python's floats."""
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def by_loops(teachers, student, temperature):
    """T² KL of every token of (tokens, V) logits."""
    found = []
    for token, logits in enumerate(student.tolist()):
        each = [softmax(teacher[token].tolist(), temperature) for teacher in teachers]
        p = [sum(column) / len(each) for column in zip(*each)]
        q = softmax(logits, temperature)
        kl = sum(p_v * math.log(p_v / q_v) for p_v, q_v in zip(p, q))
        found.append(temperature**2 * kl)
    return torch.tensor(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("number", [1, 3])
def test_the_loss_is_the_divergence_from_the_teachers_mean(number, temperature):
    teachers, student = [draw(5, 7, seed=10 + n) for n in range(number)], draw(5, 7)
    found = distillation_loss(teachers, student, temperature)
    torch.testing.assert_close(found, by_loops(teachers, student, temperature))


def test_a_loss_worked_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2.
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distillation_loss([teacher], student).item() == pytest.approx(expected, rel=1e-6)


def test_a_student_that_equals_its_teacher_loses_nothing():
    logits = draw(4, 9)
    for top_k in (0, 3):
        loss = distillation_loss([logits], logits + 5.0, 2.0, top_k)
        torch.testing.assert_close(loss, torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_the_probabilities(temperature):
    teacher, student = draw(3, 6, seed=2), draw(3, 6).requires_grad_()
    distillation_loss([teacher], student, temperature).sum().backward()
    p, q = (
        torch.tensor([softmax(row, temperature) for row in logits.tolist()])
        for logits in (teacher, student)
    )
    torch.testing.assert_close(student.grad, temperature * (q - p), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top_k", [0, 4])
def test_the_gradient_is_that_of_the_plain_formula(top_k):
    teacher, student = draw(3, 8, seed=2), draw(3, 8).requires_grad_()
    distillation_loss([teacher], student, 2.0, top_k).sum().backward()
    plain = student.detach().double().requires_grad_()
    p, q = ((z / 2).softmax(-1) for z in (teacher.double(), plain))
    if top_k:
        order = p.argsort(-1, descending=True)
        p, q = p.gather(-1, order), q.gather(-1, order)
        p, q = (torch.cat([x[:, :top_k], x[:, top_k:].sum(-1, keepdim=True)], -1) for x in (p, q))
    (4 * p * (p.log() - q.log())).sum().backward()
    torch.testing.assert_close(student.grad, plain.grad.float(), atol=1e-5, rtol=1e-4)


def test_the_likeliest_tokens_and_the_rest_worked_by_hand():
    # p = (4, 1, 2, 1)/8 and q = (1, 1, 1, 1)/4; the teacher's two likeliest are 0 and 2:
    # (1/2, 1/4, 1/4) against (1/4, 1/4, 1/2) is 1/2 log 2 - 1/4 log 2.
    teacher, student = torch.tensor([[4.0, 1.0, 2.0, 1.0]]).log(), torch.zeros(1, 4)
    expected = math.log(2) / 4
    found = distillation_loss([teacher], student, top_k=2)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_more_tokens_told_apart_lose_more_up_to_the_loss_of_all():
    teacher, student = draw(50, 12, seed=3), draw(50, 12)
    losses = [distillation_loss([teacher], student, top_k=k) for k in (1, 3, 6, 11, 12, 99)]
    for fewer, more in zip(losses, losses[1:]):
        assert (fewer <= more + 1e-5).all()  # the rest is what rounding leaves
    assert torch.equal(losses[-1], distillation_loss([teacher], student))
    torch.testing.assert_close(losses[-3], losses[-1], atol=1e-5, rtol=1e-4)


def test_a_rest_without_probability_leaves_loss_and_gradient_finite():
    logits = torch.tensor([[90.0, 0.0, 0.0, 0.0]], requires_grad=True)
    assert coarse(logits, torch.tensor([[0, 1]])).isfinite().all()
    distillation_loss([torch.tensor([[0.0, 9.0, 0.0, 0.0]])], logits, top_k=2).sum().backward()
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_full():
    teacher, student = draw(4, 9, seed=5).half(), draw(4, 9).half()
    for top_k in (0, 3):
        found = distillation_loss([teacher], student, 1.5, top_k)
        assert torch.equal(found, distillation_loss([teacher.float()], student.float(), 1.5, top_k))
