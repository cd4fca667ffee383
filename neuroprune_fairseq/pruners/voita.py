"""Hard-concrete head gates with an L0 penalty (Voita et al., ACL 2019)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuroprune_fairseq.pruners.base import Run, check_not_negative
from neuroprune_fairseq.pruners.gated import Gated
from neuroprune_fairseq.pruners.hard_concrete import (
    INITIAL_SCORE,
    HardConcreteFlags,
    check_gate_updates,
    noiseless_gates,
    open_probability,
    sampled_gates,
)
from neuroprune_fairseq.pruners.scores import ScoreRule, uniform_noise


@dataclass
class VoitaFlags(HardConcreteFlags):
    """Flags of hard-concrete gates."""

    l0_penalty_weight: float = field(
        default=0.01,
        metadata={
            "help": "weight of the expected number of open heads, per token of loss; a larger "
            "one leaves fewer heads"
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
        return sampled_gates(scores, uniform_noise(run, len(scores)))

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
        check_gate_updates(flags)
        super().__init__(VoitaRule(flags))
