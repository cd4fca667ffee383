"""The trainable number behind every gate, and its own optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.plugin.workers import sum_over_workers

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

    def step(self, device: torch.device, penalty: Callable[[Tensor], Tensor] | None = None) -> None:
        """One Adam step from all that was gathered; none when it is not finite.

        Args:
            device: where workers exchange tensors.
            penalty: scores to scalar, on the scale of the loss per token.
        """
        mine = torch.cat([self._gradient, self._gradient.new_tensor([self._sample_size])])
        total = sum_over_workers(mine, device)
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
