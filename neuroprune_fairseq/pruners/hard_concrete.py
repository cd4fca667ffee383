"""Gates from the hard concrete distribution: random while they learn, 0 or 1 with some mass."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.pruners.scores import ScoreFlags

# Temperature and stretch of the hard concrete distribution (Louizos et al. 2018) as Voita
# et al. set them.
TEMPERATURE = 0.33
LOW, HIGH = -0.1, 1.1
# The gates of a pretrained model start open: noise-free gate exactly 1, P(open) 0.96.
INITIAL_SCORE = 2.5
_EPS = 1e-6  # keeps the noise's logit finite


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
        uniform: uniform noise of the same shape, in [0, 1).

    Returns:
        As ``scores``, in [0, 1], with P(0) > 0 and P(1) > 0.
    """
    uniform = uniform * (1 - 2 * _EPS) + _EPS
    logits = (uniform.log() - torch.log1p(-uniform) + scores) / TEMPERATURE
    return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def open_probability(scores: Tensor) -> Tensor:
    """P(gate > 0) of the hard concrete distribution; its sum is the expected L0 norm."""
    return torch.sigmoid(scores - TEMPERATURE * math.log(-LOW / HIGH))


@dataclass
class HardConcreteFlags(ScoreFlags):
    """How long such gates learn."""

    gate_updates: int = field(
        default=0,
        metadata={
            "help": "the gates learn for so many updates, then what is closed is zeroed, the "
            "other gates are folded into out_proj and fc2 and the model trains on (0: voita to the "
            "end of the run, cofi for two thirds of it)"
        },
    )


def check_gate_updates(flags: HardConcreteFlags) -> None:
    """Refuse a number of updates that is none.

    Raises:
        SystemExit: one line.
    """
    if flags.gate_updates < 0:
        refuse(f"--gate-updates {flags.gate_updates} must be a number of updates, 0 or more")
