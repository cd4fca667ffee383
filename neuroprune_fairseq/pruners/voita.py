"""Hard-concrete head gates with an L0 penalty (Voita et al., ACL 2019)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.pruners.base import Run, check_not_negative
from neuroprune_fairseq.pruners.gated import Gated
from neuroprune_fairseq.pruners.scores import ScoreFlags, ScoreRule, uniform_noise

# Temperature and stretch of the hard concrete distribution (Louizos et al. 2018) as Voita
# et al. set them.
TEMPERATURE = 0.33
LOW, HIGH = -0.1, 1.1
# The gates of a pretrained model start open: noise-free gate exactly 1, P(open) 0.96.
INITIAL_SCORE = 2.5


def noiseless_gates(scores: Tensor) -> Tensor:
    """The gates at test time: sigmoid(score), stretched to (LOW, HIGH), clipped to [0, 1].

    Args:
        scores: log alpha, any shape.

    Returns:
        As ``scores``; exactly 0 below log(1/11), exactly 1 above log(11).
    """
    return (torch.sigmoid(scores) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def sampled_gates(scores: Tensor, uniform: Tensor) -> Tensor:
    """Gates from the hard concrete distribution.

    Args:
        scores: log alpha, any shape.
        uniform: uniform noise of the same shape, inside (0, 1).

    Returns:
        As ``scores``, in [0, 1], with P(0) > 0 and P(1) > 0.
    """
    logits = (uniform.log() - torch.log1p(-uniform) + scores) / TEMPERATURE
    return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def open_probability(scores: Tensor) -> Tensor:
    """P(gate > 0) of the hard concrete distribution; its sum is the expected L0 norm."""
    return torch.sigmoid(scores - TEMPERATURE * math.log(-LOW / HIGH))


@dataclass
class VoitaFlags(ScoreFlags):
    """Flags of hard-concrete gates."""

    l0_penalty_weight: float = field(
        default=0.01,
        metadata={
            "help": "weight of the expected number of open heads, per token of loss; a larger "
            "one leaves fewer heads"
        },
    )
    gate_updates: int = field(
        default=0,
        metadata={
            "help": "the gates learn for so many updates, then closed heads are zeroed, the "
            "other gates are folded into out_proj and the model trains on (0: at the end)"
        },
    )


class VoitaRule(ScoreRule):
    """Stochastic gates whose expected number of open ones costs loss.

    At the end a closed gate zeroes its head, any other is folded into out_proj.
    """

    def __init__(self, flags: VoitaFlags) -> None:
        super().__init__(0.1 if flags.score_lr is None else flags.score_lr)
        self._weight, self._updates = flags.l0_penalty_weight, flags.gate_updates

    def initial_scores(self, heads: int, seed: int) -> Tensor:
        return torch.full((heads,), INITIAL_SCORE)

    def sample_gates(self, scores: Tensor, run: Run) -> Tensor:
        eps = 1e-6  # keeps the noise's logit finite
        return sampled_gates(scores, uniform_noise(run, len(scores)) * (1 - 2 * eps) + eps)

    def gates_of(self, scores: Tensor) -> Tensor:
        return noiseless_gates(scores)

    def penalty(self, scores: Tensor) -> Tensor:
        return self._weight * open_probability(scores).sum()

    def have_learnt(self, run: Run) -> bool:
        return 0 < self._updates <= run.num_updates


class Voita(Gated):
    """Hard-concrete gates as a pruner."""

    def __init__(self, flags: VoitaFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        check_not_negative(l0_penalty_weight=flags.l0_penalty_weight)
        if flags.gate_updates < 0:
            refuse(f"--gate-updates {flags.gate_updates} must be a number of updates, 0 or more")
        super().__init__(VoitaRule(flags))
