"""Differentiable subset pruning (Li, Cotterell and Sachan, TACL 2021): exactly K heads."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.pruners.base import (
    HeadTargetFlags,
    Run,
    check_not_negative,
    check_positive,
    check_target_heads,
)
from neuroprune_fairseq.pruners.gated import Gated
from neuroprune_fairseq.pruners.scores import ScoreFlags, ScoreRule, uniform_noise
from neuroprune_fairseq.pruners.top_k import (
    annealed_temperature,
    gumbel_noise,
    hard_top_k,
    relaxed_top_k,
    straight_through_top_k,
)

logger = logging.getLogger(__name__)

MODES = ("joint", "pipelined", "straight-through")
# Half-width of the straight-through mode's random start, as in the authors' code for
# 18 x 6 heads. It has no noise, so equal scores would be chosen by their position.
STRAIGHT_THROUGH_SPREAD = 0.5


@dataclass
class DspFlags(HeadTargetFlags, ScoreFlags):
    """Flags of differentiable subset pruning."""

    dsp_mode: str = field(
        default="joint",
        metadata={
            "help": "joint: weights and scores learn together; pipelined: only the scores "
            "learn; straight-through: joint, with hard gates and identity gradient instead of "
            "the annealed relaxation"
        },
    )
    score_clip_ratio: float = field(
        default=0.0,
        metadata={
            "help": "limit the norm of a batch's gradient of the scores to this times that of "
            "the gates; near a temperature of 0.01 the relaxation's gradient can exceed it by "
            "many orders of magnitude, and Adam then ignores what follows (10 is a good value; "
            "0, as published: no limit)"
        },
    )
    initial_temperature: float = field(
        default=0.1, metadata={"help": "temperature of the relaxed top-k at update 0"}
    )
    final_temperature: float = field(
        default=1e-8, metadata={"help": "temperature after --cooldown-updates"}
    )
    cooldown_updates: int = field(
        default=15000,
        metadata={
            "help": "the temperature falls exponentially over so many updates; then the K best "
            "heads are chosen for good, the others are zeroed, and the model trains on. A run "
            "that is shorter chooses at its end (in mode pipelined the weights never change, "
            "so nothing happens after this)"
        },
    )


class DspRule(ScoreRule):
    """Head scores learn through a relaxed top-k of the Gumbel-perturbed scores.

    Noise is drawn for every micro-batch in training; validation and the final choice take
    the K largest scores without noise, as the authors' evaluation does.

    Note:
        Two deviations from the authors' code. The temperature follows the run's update
        count, so a resumed run goes on where it was (theirs starts over). And once the
        annealing is over the choice is final: at 1e-8 no gradient reaches the scores any
        more and going on would only exchange heads at random, so the K heads are better
        off training undisturbed.
    """

    def __init__(self, flags: DspFlags) -> None:
        super().__init__(0.2 if flags.score_lr is None else flags.score_lr)
        self._keep = flags.target_heads or 0
        self._is_hard = str(flags.dsp_mode) == "straight-through"
        self._from, self._to = flags.initial_temperature, flags.final_temperature
        self._cooldown = flags.cooldown_updates
        self.clip_ratio = flags.score_clip_ratio

    def temperature(self, update: int) -> float:
        """Temperature at an update of the run."""
        return annealed_temperature(self._from, self._to, update, self._cooldown)

    def initial_scores(self, heads: int, seed: int) -> Tensor:
        if not self._is_hard:
            return torch.zeros(heads)
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(heads, generator=generator) * 2 - 1) * STRAIGHT_THROUGH_SPREAD

    def sample_gates(self, scores: Tensor, run: Run) -> Tensor:
        if self._is_hard:
            return straight_through_top_k(scores, self._keep)
        noisy = scores + gumbel_noise(uniform_noise(run, len(scores)))
        return relaxed_top_k(noisy, self._keep, self.temperature(run.num_updates))

    def gates_of(self, scores: Tensor) -> Tensor:
        return hard_top_k(scores, self._keep)

    def have_learnt(self, run: Run) -> bool:
        return run.num_updates >= self._cooldown

    def record(self, run: Run) -> dict[str, Any]:
        return {"temperature": self.temperature(run.num_updates)}

    def finish(self, run: Run) -> None:
        if not self.have_learnt(run):
            logger.warning(
                f"training ends after {run.num_updates} updates, before the {self._cooldown} of "
                "--cooldown-updates: the heads are chosen while the gates are still being annealed"
            )


class Dsp(Gated):
    """DSP as a pruner: joint, pipelined (only the scores learn) or straight-through."""

    def __init__(self, flags: DspFlags) -> None:
        """Start afresh.

        Raises:
            SystemExit: one line for flags that cannot be.
        """
        check_target_heads(flags.target_heads)
        check_choice("--dsp-mode", str(flags.dsp_mode), MODES)
        check_positive(
            initial_temperature=flags.initial_temperature,
            final_temperature=flags.final_temperature,
            cooldown_updates=flags.cooldown_updates,
        )
        if flags.final_temperature > flags.initial_temperature:
            refuse(
                f"--final-temperature {flags.final_temperature} must not be above "
                f"--initial-temperature {flags.initial_temperature}"
            )
        check_not_negative(score_clip_ratio=flags.score_clip_ratio)
        super().__init__(DspRule(flags), flags.target_heads)
        self.trains_weights = str(flags.dsp_mode) != "pipelined"
