"""Gates that are a (random) function of learnt scores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune_fairseq.pruners.base import Run, check_positive
from neuroprune_fairseq.pruners.gated import GateRule
from neuroprune_fairseq.pruners.gates import Gates, living_heads

# Stands for minus infinity: the score of a head that was dead from the start. Finite, so
# that score - score is 0 and not NaN.
DEAD = -1e9


class GateScores:
    """Scores that learn beside the model, each update from the mean gradient per token.

    They are kept out of fairseq's optimizer, which has one learning rate and one weight
    decay for all it holds, whose scheduler sets both anew, and whose parameters must be in
    the pretrained checkpoint. So they have an Adam of their own: constant learning rate, no
    weight decay, not clipped, fp64 on the CPU whatever the model's precision and device.

    The gradient is normalised as fairseq does it: summed over tokens, micro-batches and
    workers, then divided by the sum of their sample sizes. All workers take equal steps.
    """

    def __init__(self, initial: Tensor, lr: float, clip_ratio: float = 0.0) -> None:
        self.values = nn.Parameter(initial.detach().double().cpu())  # (heads_total,)
        # The betas that fairseq's translation recipes train the model with.
        self._optimizer = torch.optim.Adam([self.values], lr=lr, betas=(0.9, 0.98))
        self._clip_ratio = clip_ratio
        self.start_update()

    def start_update(self) -> None:
        """Forget what was gathered: a new update begins, or the last one was dropped."""
        self._gradient = torch.zeros_like(self.values)
        self._sample_size = 0.0

    def gather(self, gates: Tensor, gradient: Tensor, sample_size: float) -> None:
        """Add one micro-batch; with a clip ratio, limited to that times the gates' gradient.

        Args:
            gates: (heads_total,), computed from ``values`` with autograd.
            gradient: (heads_total,), of the summed loss with respect to the gates.
            sample_size: what the loss was summed over.
        """
        (of_scores,) = torch.autograd.grad(gates, self.values, gradient.to(gates))
        if self._clip_ratio:
            limit, norm = self._clip_ratio * gradient.norm(), of_scores.norm()
            of_scores = of_scores * (limit / norm).clamp(max=1.0) if norm > 0 else of_scores
        self._gradient += of_scores
        self._sample_size += sample_size

    def step(
        self,
        sum_over_workers: Callable[[Tensor], Tensor] = lambda values: values,
        penalty: Optional[Callable[[Tensor], Tensor]] = None,
    ) -> None:
        """One Adam step from all that was gathered; none when it is not finite.

        Args:
            sum_over_workers: of a run.
            penalty: scores to scalar, on the scale of the loss per token.
        """
        mine = torch.cat([self._gradient, self._gradient.new_tensor([self._sample_size])])
        total = sum_over_workers(mine)
        gradient = total[:-1] / (total[-1].item() or 1.0)
        if penalty is not None:
            gradient = gradient + torch.autograd.grad(penalty(self.values), self.values)[0]
        if gradient.isfinite().all():
            self.values.grad = gradient
            self._optimizer.step()
            self.values.grad = None
        self.start_update()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain numbers."""
        return {"values": self.values.detach().clone(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`; the learning rate stays that of this run."""
        with torch.no_grad():
            self.values.copy_(state["values"])
        lr = self._optimizer.param_groups[0]["lr"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._optimizer.param_groups[0]["lr"] = lr


@dataclass
class ScoreFlags:
    """Flags of methods with learnt head scores."""

    score_lr: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of the head scores (Adam, constant, without weight decay; the "
            "model's is --lr; default: 0.2 for dsp, 0.1 for voita and cofi)"
        },
    )


def uniform_noise(run: Run, size: int) -> Tensor:
    """Noise for the current micro-batch, uniform in [0, 1): (size,), fp64, on the CPU.

    It depends on the seed, the update and the micro-batch's place among those of all workers. So
    two workers draw what one worker with --update-freq 2 would, and a resumed run draws what it
    would have drawn.
    """
    generator = np.random.default_rng((run.seed, run.num_updates, run.place))
    return torch.from_numpy(generator.random(size))


class ScoreRule(GateRule):
    """The rule of methods whose gates come from learnt scores; they say how."""

    clip_ratio = 0.0  # 0: the scores' gradient is not clipped

    def __init__(self, lr: float) -> None:
        check_positive(score_lr=lr)
        self._lr = lr
        self._scores: Any = None  # GateScores once there are gates

    def initial_scores(self, heads: int, seed: int) -> Tensor:
        """Scores at the start: (heads,), the same on every worker."""
        raise NotImplementedError

    def living(self, model: nn.Module) -> Tensor:
        """Which scores belong to something that is not pruned yet; bool, as many as scores."""
        return living_heads(model)

    def sample_gates(self, scores: Tensor, run: Run) -> Tensor:
        """Gates of one micro-batch, differentiable in the scores: (n,)."""
        raise NotImplementedError

    def gates_of(self, scores: Tensor) -> Tensor:
        """Gates without noise, as the pruned model has them: (n,)."""
        raise NotImplementedError

    def penalty(self, scores: Tensor) -> Tensor:
        """Added to the loss per token when the scores learn."""
        return scores.new_zeros(()) * scores.sum()

    def start(self, gates: Gates, run: Run, state: dict[str, Any]) -> None:
        living = self.living(run.model)
        initial = self.initial_scores(len(living), run.seed).masked_fill(~living, DEAD)
        self._scores = GateScores(initial, self._lr, self.clip_ratio)
        if state:
            self._scores.load_state_dict(state["scores"])

    def before_batch(self, gates: Gates, run: Run) -> None:
        if run.begins_update:
            self._scores.start_update()
        self._sampled = self.sample_gates(self._scores.values, run)
        gates.use(self._sampled)

    def after_batch(self, gradient: Tensor, sample_size: float) -> None:
        self._scores.gather(self._sampled, gradient, sample_size)
        del self._sampled  # frees its graph

    def after_step(self, run: Run) -> None:
        self._scores.step(run.sum_over_workers, self.penalty)

    @torch.no_grad()
    def final_gates(self, model: nn.Module) -> Tensor:
        return self.gates_of(self._scores.values)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self._scores.state_dict()}
