"""The life of gates in a run: what every method that chooses parts by gates has in common.

Gates are attached before the first batch. When they have learnt enough, or at the last update of
the run, they are folded into the weights (a gate of 0 zeroes its part), the hooks go, and the
rest trains on as a plain model, with what is gone held at zero.

So every checkpoint from then on is the pruned model; one from before is complete in the sense
that training resumes from it, but it still has all its heads. Validation always sees the heads
that would be kept if training ended there.
"""

import logging
from typing import Any, Optional

from torch import Tensor, nn

from neuroprune_fairseq.pruners.base import Pruner, Run, check_target_heads
from neuroprune_fairseq.pruners.gates import Gates, fold_, living_heads

logger = logging.getLogger(__name__)


class GateRule:
    """How a method sets gates and what decides them; all tensors of gates are (n,)."""

    gates_neurons = False  # True: hidden neurons have gates, too

    def start(self, gates: Gates, run: Run, state: dict[str, Any]) -> None:
        """The gates were attached: begin, or go on from the ``state`` of a checkpoint."""
        raise NotImplementedError

    def before_batch(self, gates: Gates, run: Run) -> None:
        """Set the gates of a micro-batch."""
        raise NotImplementedError

    def after_batch(self, gradient: Tensor, sample_size: float) -> None:
        """Take the gradient of the micro-batch's summed loss with respect to the gates."""
        raise NotImplementedError

    def after_step(self, run: Run) -> Optional[Tensor]:
        """After an optimizer step. Returns gates to fold into the weights now, if any."""
        raise NotImplementedError

    def final_gates(self, model: nn.Module) -> Tensor:
        """The gates if training ended now."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`start` needs in a resumed run."""
        raise NotImplementedError

    def have_learnt(self, run: Run) -> bool:
        """Whether the gates can be folded before the end of the run."""
        return False

    def record(self, run: Run) -> dict[str, Any]:
        """Entries for an epoch's JSON line while the gates learn."""
        return {}

    def finish(self, run: Run) -> None:
        """The final gates are going to be folded."""


class Gated(Pruner):
    """A pruner whose heads are chosen by gates, by the rule of a method."""

    needs_whole_run = True

    def __init__(self, rule: GateRule, keep: Optional[int] = None) -> None:
        """Nothing is attached yet.

        Args:
            rule: of the method.
            keep: how many heads will stay; None where the method finds its own number.
        """
        self.rule, self.keep = rule, keep
        self.gates: Any = None  # Gates while they learn
        self._finished = False
        self._state: dict[str, Any] = {}  # of the run that is resumed

    @property
    def may_cut(self) -> bool:  # type: ignore[override]  # noqa: D102
        return self._finished

    def start(self, run: Run) -> None:  # noqa: D102
        if self.gates is None and not self._finished:
            self._attach(run)

    def before_batch(self, run: Run) -> None:  # noqa: D102
        if self.gates is not None:
            self.rule.before_batch(self.gates, run)

    def after_batch(self, run: Run, sample_size: Any) -> None:  # noqa: D102
        if self.gates is not None:
            gradient = self.gates.take_gradient() / run.loss_scale
            self.rule.after_batch(gradient, float(sample_size))

    def after_step(self, run: Run) -> bool:  # noqa: D102
        if self.gates is None:
            return False
        values = self.rule.after_step(run)
        if values is not None:
            fold_(run.model, values)
        if self.rule.have_learnt(run) or 0 < run.max_update <= run.num_updates:
            self._finish_(run)
        return values is not None or self._finished

    def end_epoch(self, run: Run) -> dict[str, Any]:  # noqa: D102
        if self.gates is not None and 0 < run.max_epoch <= run.epoch:
            self._finish_(run)
        if self.gates is None:
            return {}
        gates_open = int(self.rule.final_gates(run.model).gt(0).sum())
        return {"gates_open": gates_open, **self.rule.record(run)}

    def before_validation(self, run: Run) -> None:  # noqa: D102
        if self.gates is not None:
            self.gates.evaluate_with(self.rule.final_gates(run.model))

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        if self.gates is None:  # finished, or not yet attached
            return {"finished": self._finished}
        return {"finished": False, **self.rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self._finished, self._state = state["finished"], state

    def _attach(self, run: Run) -> None:
        found = int(living_heads(run.model).sum())
        if self.keep is not None:
            check_target_heads(self.keep, found)
        if found in (0, self.keep):
            self._finished = True  # nothing to choose
            return
        self.gates = Gates(run.model, self.rule.gates_neurons)
        self.rule.start(self.gates, run, self._state)
        self._state = {}

    def _finish_(self, run: Run) -> None:
        """Fold the final gates and go on as a plain model."""
        values = self.rule.final_gates(run.model)
        self.rule.finish(run)
        fold_(run.model, values)
        self.gates.remove()
        self.gates, self._finished = None, True
        kept = int(values.gt(0).sum())
        logger.info(f"gates folded after {run.num_updates} updates: {kept} are open")
