"""The life cycle of gates in a training run: the base of all head-pruning baselines.

Gates are attached before the first batch. When they have learnt enough, or at the last
update of the run, they are folded into the weights (a gate of 0 zeroes its head), the hooks
go, and the heads that are gone are held at zero while the rest trains on as a plain model.

So every checkpoint from then on is the pruned model; one from before is complete in the
sense that training resumes from it, but it still has all its heads. Validation always
sees the heads that would be kept if training ended there.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from omegaconf import II
from torch import Tensor

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.method.pruning import Pruned
from neuroprune_fairseq.plugin import workers
from neuroprune_fairseq.plugin.precision import master_weights
from neuroprune_fairseq.plugin.pruning_task import PruningTask, PruningTaskConfig
from neuroprune_fairseq.pruners.gates import HeadGates, fold_, living_heads
from neuroprune_fairseq.pruners.scores import DEAD, GateScores

logger = logging.getLogger(__name__)


def loss_scale(optimizer: Any) -> float:
    """What fairseq's optimizer multiplied the loss with before the backward pass."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return 1.0
    return scaler.get_scale() if hasattr(scaler, "get_scale") else scaler.loss_scale


def check_heads_to_keep(heads: Optional[int]) -> None:  # noqa: UP045
    """Refuse a missing or too small --heads-to-keep; the model sets the upper end later."""
    if heads is None or heads < 1:
        refuse(f"--heads-to-keep {heads} must be a number of heads of the whole model, at least 1")


def check_positive(**flags: float) -> None:
    """Refuse values that are not finite numbers above 0; a keyword names its flag."""
    for name, value in flags.items():
        if not 0 < value < float("inf"):
            refuse(f"--{name.replace('_', '-')} {value} must be a number above 0")


@dataclass
class GatedTaskConfig(PruningTaskConfig):
    """What every gated task must know of the run."""

    seed: int = II("common.seed")


class GatedTask(PruningTask):
    """A pruning task with gates; subclasses say how they are set and what decides them."""

    heads_to_keep: Optional[int] = None  # noqa: UP045  (None: the method finds its own number)

    def __init__(self, cfg: GatedTaskConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.gates: Optional[HeadGates] = None  # noqa: UP045
        self._finished = False
        self._place = 0  # of the batch among this worker's, in the current update
        self._gate_state: Optional[dict[str, Any]] = None  # noqa: UP045  (of a resumed run)
        self._held: Optional[Pruned] = None  # noqa: UP045

    # For subclasses.

    def start_gates_(self, living: Tensor, state: Optional[dict[str, Any]]) -> None:  # noqa: UP045
        """The gates were attached: begin, or go on from ``state``. living: (heads_total,)."""

    def before_batch_(self, new_update: bool) -> None:
        """Set the gates of a micro-batch."""

    def after_batch_(self, gradient: Tensor, sample_size: float) -> None:
        """Take the gradient of the summed loss with respect to the gates: (heads_total,)."""

    def update_gates_(self) -> None:
        """After an optimizer step."""

    def final_gates(self) -> Tensor:
        """The gates if training ended now: (heads_total,)."""
        raise NotImplementedError

    def gates_have_learnt(self) -> bool:
        """Whether the gates can be folded before the end of the run."""
        return False

    def gate_state(self) -> dict[str, Any]:
        """What ``start_gates_`` needs in a resumed run: tensors and plain values."""
        return {}

    def uniform_noise(self, size: int) -> Tensor:
        """Noise for the current micro-batch, uniform in [0, 1): (size,), fp64, on the CPU.

        It depends on the seed, the update and the micro-batch's place among those of all
        workers. So two workers draw what one worker with --update-freq 2 would, and a resumed
        run draws what it would have drawn.
        """
        worker, number = workers.position()
        place = self._place * number + worker
        generator = np.random.default_rng((self.cfg.seed, self.num_updates, place))
        return torch.from_numpy(generator.random(size))

    # When something happens.

    def start_(self) -> None:
        if max(self.cfg.max_epoch, self.cfg.max_update) <= 0:
            refuse("--max-epoch or --max-update is needed: heads are removed where training ends")
        self.refuse_patience()
        if self._held is None:
            self._held = Pruned(self.model)
        if self.gates is None and not self._finished:
            self._attach_()

    def train_batch(
        self, sample, model, criterion, optimizer, update_num, ignore_grad=False, **rest
    ):
        arguments = (sample, model, criterion, optimizer, update_num, ignore_grad)
        if self.gates is None:
            return super().train_batch(*arguments, **rest)
        # fairseq clears all gradients when an update begins, also after one that it dropped
        # (overflow, out of memory), and tells nobody else.
        new_update = all(parameter.grad is None for parameter in model.parameters())
        self._place = 0 if new_update else self._place + 1
        self.before_batch_(new_update)
        loss, sample_size, logging_output = super().train_batch(*arguments, **rest)
        gradient = self.gates.take_gradient() / loss_scale(optimizer)
        self.after_batch_(gradient, 0.0 if ignore_grad else float(sample_size))
        return loss, sample_size, logging_output

    def after_update_(self) -> None:
        self._hold_()
        if self.gates is None:
            return
        held = self._held
        self.update_gates_()
        if self.gates_have_learnt() or 0 < self.cfg.max_update <= self.num_updates:
            self.finish_()
        if self._held is not held:  # heads went
            self.follow_first_worker_()
            self._held = Pruned(self.model)

    def at_epoch_end_(self) -> dict[str, Any]:
        if self.gates is not None and 0 < self.cfg.max_epoch <= self._epoch:
            self.finish_()
        if self.gates is None:
            return {}
        return {"gates_open": int(self.final_gates().gt(0).sum())}

    @property
    def may_shrink(self) -> bool:
        """Gates know their heads by number."""
        return self._finished

    def after_shrink_(self):
        self._held = Pruned(self.model)

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        if self.gates is not None:
            self.gates.evaluate_with(self.final_gates())

    def own_state(self):
        return {"finished": self._finished, **({} if self._finished else self.gate_state())}

    def restore_(self, state):
        self._gate_state, self._finished = state, state["finished"]

    # What happens.

    def _attach_(self) -> None:
        living = living_heads(self.model)
        keep, found = self.heads_to_keep, int(living.sum())
        if keep is not None and keep > found:
            refuse(f"--heads-to-keep {keep} must be 1 to {found}, the heads that the model has")
        if keep == found:
            self._finished = True  # nothing to choose
            return
        self.gates = HeadGates(self.model)
        self.start_gates_(living, self._gate_state)
        self._gate_state = None

    def _hold_(self) -> None:
        if self._held:
            with master_weights(self.optimizer):
                self._held.zero_()

    def fold_into_weights_(self, values: Tensor) -> None:
        """Fold gates into the weights; heads of gate 0 are held at zero from now on."""
        with master_weights(self.optimizer):
            fold_(self.model, values)
        self._held = Pruned(self.model)

    def finish_(self) -> None:
        """Fold the final gates and go on as a plain model."""
        values = self.final_gates()
        self.fold_into_weights_(values)
        self.gates.remove()
        self.gates, self._finished = None, True
        logger.info(
            f"gates folded after {self.num_updates} updates: {int(values.gt(0).sum())} heads"
        )


@dataclass
class ScoredTaskConfig(GatedTaskConfig):
    """Flags of tasks with learnt head scores."""

    score_lr: float = field(
        default=0.2,
        metadata={
            "help": "learning rate of the head scores (Adam, constant, without weight decay; "
            "the model's is --lr)"
        },
    )


class ScoredTask(GatedTask):
    """A gated task whose gates are a (random) function of one learnt score per head."""

    score_clip_ratio = 0.0  # 0: the scores' gradient is not clipped

    def __init__(self, cfg: ScoredTaskConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        check_positive(score_lr=cfg.score_lr)
        self.scores: Optional[GateScores] = None  # noqa: UP045

    # For subclasses.

    def initial_scores(self, heads: int) -> Tensor:
        """Scores at the start: (heads,), the same on every worker."""
        raise NotImplementedError

    def sample_gates(self, scores: Tensor) -> Tensor:
        """Gates of one micro-batch, differentiable in the scores: (heads_total,)."""
        raise NotImplementedError

    def gates_of(self, scores: Tensor) -> Tensor:
        """Gates without noise, as the pruned model has them: (heads_total,)."""
        raise NotImplementedError

    def score_penalty(self, scores: Tensor) -> Tensor:
        """Added to the loss per token when the scores learn."""
        return scores.new_zeros(()) * scores.sum()

    # When something happens.

    def start_gates_(self, living, state):
        initial = self.initial_scores(len(living)).masked_fill(~living, DEAD)
        self.scores = GateScores(initial, self.cfg.score_lr, self.score_clip_ratio)
        if state:
            self.scores.load_state_dict(state["scores"])

    def before_batch_(self, new_update):
        if new_update:
            self.scores.start_update()
        self._sampled = self.sample_gates(self.scores.values)
        self.gates.use(self._sampled)

    def after_batch_(self, gradient, sample_size):
        self.scores.gather(self._sampled, gradient, sample_size)
        del self._sampled  # frees its graph

    def update_gates_(self):
        self.scores.step(self.gates.device, self.score_penalty)

    @torch.no_grad()
    def final_gates(self):
        return self.gates_of(self.scores.values)

    def gate_state(self):
        return {"scores": self.scores.state_dict()} if self.scores else {}
