"""Which heads and weights a run with targets loses, predicted from gradients that fairseq made.

The weights and gradients of every update are copied where fairseq's own optimizer makes its step;
all else is computed here, in fp64 and by the equations.
"""

from __future__ import annotations

import pytest
import torch
from fairseq.optim import FairseqOptimizer
from fairseq.trainer import Trainer
from test_task import epoch_lines

HEADS, HEAD_DIM, DECAY, END = 6, 8, 0.98, 7
# One step to the targets, after update END; some updates follow.
FLAGS = ("--max-epoch", 1, "--target-update", END, "--target-interval", 1000)
PROJECTIONS = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
MLP = ("fc1.weight", "fc2.weight")


@pytest.fixture
def updates(monkeypatch):
    """Per update by parameter: its values before the step, its gradient, its values after it."""
    seen, trainers = [], []
    train_step, step = Trainer.train_step, FairseqOptimizer.step

    def remember(self, *args, **kwargs):
        trainers[:] = [self]
        return train_step(self, *args, **kwargs)

    def record(self, *args, **kwargs):
        named = dict(trainers[0].get_model().named_parameters())
        before = {name: p.detach().double().clone() for name, p in named.items()}
        gradients = {name: p.grad.detach().double().clone() for name, p in named.items()}
        step(self, *args, **kwargs)
        after = {name: p.detach().double().clone() for name, p in named.items()}
        seen.append((before, gradients, after))

    monkeypatch.setattr(Trainer, "train_step", remember)
    monkeypatch.setattr(FairseqOptimizer, "step", record)
    return seen


def running_mean(squares_of_updates):
    """Of squared gradients, each update's divided by its mean over all of them."""
    mean = None
    for squares in squares_of_updates:
        total = sum(square.sum().item() for square in squares.values())
        number = sum(square.numel() for square in squares.values())
        for name, square in squares.items():
            squares[name] = square / (total / number)
        if mean is None:
            mean = squares
        else:
            mean = {name: DECAY * mean[name] + (1 - DECAY) * squares[name] for name in mean}
    return mean


def head_importance(updates):
    """Per module (heads,): the squared derivative of the loss by a factor on the head's output."""
    gates = []
    for weights, gradients, _ in updates:
        found = {}
        for name in (name for name in weights if name.endswith("out_proj.weight")):
            columns = (weights[name] * gradients[name]).sum(dim=0)
            factors = [columns[i * HEAD_DIM : (i + 1) * HEAD_DIM].sum() for i in range(HEADS)]
            found[name.removesuffix(".out_proj.weight")] = torch.stack(factors) ** 2
        gates.append(found)
    return running_mean(gates)


def nearest_heads(weights, modules):
    """Per module (heads,): the largest difference of any q, k, v weight to the nearest head."""
    found = {}
    for module in modules:
        rows = [weights[f"{module}.{projection}"].split(HEAD_DIM) for projection in PROJECTIONS]
        heads = [torch.cat([of_heads[i] for of_heads in rows]) for i in range(HEADS)]
        distances = [
            [(heads[i] - heads[j]).abs().max().item() for j in range(HEADS) if j != i]
            for i in range(HEADS)
        ]
        found[module] = torch.tensor([min(row) for row in distances], dtype=torch.float64)
    return found


@pytest.mark.parametrize("criterion", ["importance", "both"])
def test_the_heads_that_matter_least_in_training_go(run_train, tmp_path, updates, criterion):
    run_train(*FLAGS, "--target-heads", 70, "--head-criterion", criterion)
    assert len(updates) > END
    scores = head_importance(updates[:END])
    if criterion == "both":
        nearest = nearest_heads(updates[END - 1][2], scores)
        median = sorted(torch.cat(list(nearest.values())).tolist())[HEADS * len(scores) // 2 - 1]
        scores = {m: s * (nearest[m] / median).clamp(max=1.0) for m, s in scores.items()}
    ranked = sorted((s.item(), m, head) for m in scores for head, s in enumerate(scores[m]))
    gone = {(module, head) for _, module, head in ranked[: len(ranked) - 70]}

    (line,) = epoch_lines(tmp_path / "run")
    assert {(m["module"], int(h)) for m in line["modules"] for h in m["replaced"]} == gone
    kept = {m["module"]: m["heads_kept"] for m in line["modules"]}
    assert kept == {m: [h for h in range(HEADS) if (m, h) not in gone] for m in scores}


@pytest.mark.parametrize(
    ("flag", "ends"),
    [
        ("--target-sparsity", PROJECTIONS + MLP),
        ("--target-attn-sparsity", PROJECTIONS),
        ("--target-mlp-sparsity", MLP),
    ],
)
def test_the_weights_go_that_raise_the_loss_least(run_train, updates, flag, ends):
    state = run_train(*FLAGS, flag, 0.4)
    names = [name for name in updates[0][0] if name.endswith(PROJECTIONS + MLP)]
    fisher = running_mean(
        [{name: gradients[name] ** 2 for name in names} for _, gradients, _ in updates[:END]]
    )
    asked = [name for name in names if name.endswith(ends)]
    after = updates[END - 1][2]
    scores = torch.cat([(after[name] ** 2 * fisher[name]).flatten() for name in asked])
    zero = torch.cat([state["model"][name].eq(0).flatten() for name in asked])

    count = round(0.4 * len(scores))
    highest = scores.sort().values[count - 1]
    assert zero.sum() == count
    assert zero[scores < 0.999 * highest].all() and not zero[scores > 1.001 * highest].any()
    assert not any(state["model"][name].eq(0).any() for name in names if name not in asked)
