"""--distill-from: a criterion's training loss learns from other models, its teachers.

A teacher is called as the criterion calls the student, with the same arguments, and its output
is compared with the student's. So this works with every criterion whose model gives logits of
tokens or classes, in whatever way the criterion calls it. The teachers are no part of the
criterion as a module: no optimizer, state dict or data-parallel wrapper knows of them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.files.models import check_words, model_of
from neuroprune_fairseq.method.distillation import distillation_loss, log_probabilities
from neuroprune_fairseq.pruners.base import check_positive


@dataclass
class DistillationFlags:
    """Flags of learning from teachers."""

    distill_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of a teacher, dense or compact, of any architecture with the same "
            "dictionary; of several, with ':' between them, the probabilities are averaged"
        },
    )
    distill_weight: float = field(
        default=0.5,
        metadata={"help": "w: the loss becomes (1 - w) loss + w T^2 KL(teacher || student)"},
    )
    distill_temperature: float = field(
        default=1.0,
        metadata={"help": "T: the teacher's and the student's logits are divided by it"},
    )
    distill_top_k: int = field(
        default=0,
        metadata={
            "help": "K: tell only the teacher's K likeliest tokens apart, which saves memory with "
            "a large vocabulary; 0 tells all apart"
        },
    )


class Call(NamedTuple):
    """How a criterion called the student, and what came out."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Within it, the calls of a model are noted."""
    calls: list[Call] = []
    handle = model.register_forward_hook(
        lambda _, *call: calls.append(Call(*call)), with_kwargs=True
    )
    try:
        yield calls
    finally:
        handle.remove()


def _adaptive_log_probabilities(softmax: Any, features: Tensor) -> Tensor:
    """What fairseq's AdaptiveSoftmax.get_log_prob computes, which has no gradient.

    Args:
        softmax: an AdaptiveSoftmax.
        features: (..., embed_dim).

    Returns:
        (..., V), fp32.
    """
    head, short = log_probabilities(softmax.head(features)), softmax.cutoff[0]
    tails = [log_probabilities(tail(features)) for tail in softmax.tail]
    clusters = head[..., short:].split(1, dim=-1)
    return torch.cat([head[..., :short], *(c + t for c, t in zip(clusters, tails))], dim=-1)


def _logits(model: Any, output: Any) -> Tensor:
    """What a model's probabilities of tokens or classes are the softmax of, (..., V)."""
    softmax = getattr(getattr(model, "decoder", None), "adaptive_softmax", None)
    return output[0] if softmax is None else _adaptive_log_probabilities(softmax, output[0])


def _load(path: str, task: Any) -> nn.Module:
    state = read_checkpoint(path)
    own = (getattr(task, f"{side}_dictionary", None) for side in ("source", "target"))
    check_words(state, f"--distill-from {path}", *own)
    # Weights are drawn before they are loaded: the student's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        return model_of(state, path).requires_grad_(False)


class Distillation:
    """The teachers of a run, and how much it learns from them; false without teachers."""

    def __init__(self, flags: DistillationFlags, criterion: Any, task: Any) -> None:
        """Take over the flags; :meth:`read_teachers` follows.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        self.weight, self.temperature = flags.distill_weight, flags.distill_temperature
        self.top_k, self._task = flags.distill_top_k, task
        self.paths = [] if flags.distill_from is None else flags.distill_from.split(os.pathsep)
        if not all(self.paths):
            refuse(f"--distill-from {flags.distill_from} must name checkpoints, ':' between them")
        if not 0 <= self.weight <= 1:
            refuse(f"--distill-weight {self.weight} must be within 0 and 1")
        check_positive(distill_temperature=self.temperature)
        if self.top_k < 0:
            refuse(f"--distill-top-k {self.top_k} must be a number of tokens, or 0 for all")
        self._padding = getattr(criterion, "padding_idx", None)
        self._prefix = getattr(criterion, "ignore_prefix_size", 0)
        self._is_regression = getattr(criterion, "regression_target", False)
        self._teachers: list[nn.Module] = []

    def __bool__(self) -> bool:
        return bool(self.paths)

    def read_teachers(self) -> None:
        """Read the checkpoints, once: before the first batch that is trained on.

        So a model that is only validated with its checkpoint's criterion needs no teacher.

        Raises:
            SystemExit: one line, where one cannot be read or has another dictionary.
        """
        if not self._teachers:
            self._teachers = [_load(path, self._task) for path in self.paths]

    def loss(self, model: Any, sample: dict[str, Any], calls: list[Call]) -> Tensor:
        """T² KL(teacher || student), or the squared difference of two regressions' outputs.

        Args:
            model: the student, wrapped or not.
            sample: a batch.
            calls: of the student, in this batch.

        Returns:
            Scalar, fp32: the sum over the target tokens that are no padding, or over the sentences.

        Raises:
            SystemExit: one line, where a teacher is of another kind than the student.
        """
        if len(calls) != 1 or not isinstance(calls[0].output, tuple):
            refuse(
                "--distill-from: this --criterion and --arch make no probabilities of tokens or "
                "classes that a teacher could give; drop it"
            )
        student = _logits(model, calls[0].output)
        teachers = self._outputs(model, calls[0], student)
        if self._is_regression:
            mean = torch.stack([each.float() for each in teachers]).mean(0)
            return (student.float() - mean).square().sum()
        losses = distillation_loss(teachers, student, self.temperature, self.top_k)
        if "classification_head_name" in calls[0].keywords:
            return losses.sum()
        return losses.masked_fill(~self._counted(model, sample, calls[0]), 0.0).sum()

    def _counted(self, model: Any, sample: dict[str, Any], call: Call) -> Tensor:
        """Which of the predicted tokens have a target, as the losses' shape."""
        targets = model.get_targets(sample, call.output)
        if (masked := call.keywords.get("masked_tokens")) is not None:
            return targets[masked].ne(self._padding)
        counted = targets.ne(self._padding)
        counted[:, : self._prefix] = False
        return counted

    @torch.no_grad()
    def _outputs(self, model: nn.Module, call: Call, student: Tensor) -> list[Tensor]:
        """The teachers' logits for what the student was called with."""
        like = next(model.parameters())
        found = []
        for path, teacher in zip(self.paths, self._teachers):
            teacher.to(like.device, like.dtype)
            # What a model of another kind, or a smaller one, says; not what a device does.
            unfit = (TypeError, AttributeError, KeyError, IndexError, AssertionError)
            with refusing(f"--distill-from {path} does not read what the model reads", *unfit):
                logits = _logits(teacher, teacher(*call.arguments, **call.keywords))
            if logits.shape != student.shape:
                shapes = f"{tuple(logits.shape)} in place of {tuple(student.shape)}"
                refuse(f"--distill-from {path} has outputs of another shape: {shapes}")
            found.append(logits)
        return found
