"""Differentiable subset pruning (Li, Cotterell and Sachan, TACL 2021): exactly K heads."""

import logging
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.tasks import register_task

from neuroprune_fairseq.files.errors import check_choice, refuse
from neuroprune_fairseq.pruners.gated_task import (
    ScoredTask,
    ScoredTaskConfig,
    check_heads_to_keep,
    check_positive,
)
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
class TranslationDspConfig(ScoredTaskConfig):
    """Flags of differentiable subset pruning."""

    heads_to_keep: Optional[int] = field(  # noqa: UP045  (fairseq knows no X | None)
        default=None,
        metadata={"help": "K: how many heads of the whole model stay; exactly so many will"},
    )
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


@register_task("translation_dsp", dataclass=TranslationDspConfig)
class TranslationDspTask(ScoredTask):
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

    def __init__(self, cfg: TranslationDspConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        check_heads_to_keep(cfg.heads_to_keep)
        check_choice("--dsp-mode", cfg.dsp_mode, MODES)
        check_positive(
            initial_temperature=cfg.initial_temperature,
            final_temperature=cfg.final_temperature,
            cooldown_updates=cfg.cooldown_updates,
        )
        if cfg.final_temperature > cfg.initial_temperature:
            refuse(
                f"--final-temperature {cfg.final_temperature} must not be above "
                f"--initial-temperature {cfg.initial_temperature}"
            )
        if not 0 <= cfg.score_clip_ratio < float("inf"):
            refuse(f"--score-clip-ratio {cfg.score_clip_ratio} must be a finite number >= 0")
        self.score_clip_ratio = cfg.score_clip_ratio
        self.heads_to_keep = cfg.heads_to_keep
        self.trains_weights = cfg.dsp_mode != "pipelined"

    def temperature(self, update: int) -> float:
        """Temperature at an update of the run."""
        cfg = self.cfg
        return annealed_temperature(
            cfg.initial_temperature, cfg.final_temperature, update, cfg.cooldown_updates
        )

    def initial_scores(self, heads):
        if str(self.cfg.dsp_mode) != "straight-through":
            return torch.zeros(heads)
        generator = torch.Generator().manual_seed(self.cfg.seed)
        return (torch.rand(heads, generator=generator) * 2 - 1) * STRAIGHT_THROUGH_SPREAD

    def sample_gates(self, scores):
        if str(self.cfg.dsp_mode) == "straight-through":
            return straight_through_top_k(scores, self.heads_to_keep)
        noisy = scores + gumbel_noise(self.uniform_noise(len(scores)))
        return relaxed_top_k(noisy, self.heads_to_keep, self.temperature(self.num_updates))

    def gates_of(self, scores):
        return hard_top_k(scores, self.heads_to_keep)

    def gates_have_learnt(self):
        return self.num_updates >= self.cfg.cooldown_updates

    def finish_(self):
        if not self.gates_have_learnt():
            logger.warning(
                f"training ends after {self.num_updates} updates, before the "
                f"{self.cfg.cooldown_updates} of --cooldown-updates: the heads are chosen "
                "while the gates are still being annealed"
            )
        super().finish_()

    def at_epoch_end_(self):
        entries = super().at_epoch_end_()
        if self.gates is not None:
            entries["temperature"] = self.temperature(self.num_updates)
        return entries
