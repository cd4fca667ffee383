"""Any criterion of fairseq with the penalties of NeuroPrune (Algorithm 1's objective)."""

from typing import Any

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.plugin.task import PruningTask
from neuroprune_fairseq.pruners.penalties import Penalties


class PenalisedCriterion:
    """Mixed into a criterion of fairseq (see registration.py): its loss gains the penalties.

    fairseq sums the loss over tokens and divides the gradient by sample_size later, so the
    penalty is multiplied by the batch's sample_size: its gradient is then that of a penalty on
    the per-token loss, whatever --update-freq, batch size or number of workers.

    The logged ``loss`` is always the plain one; validation computes nothing else.
    """

    penalties: Penalties

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> Any:
        criterion = super().build_criterion(cfg, task)
        criterion.penalties = Penalties(cfg)
        if criterion.penalties.is_proximal and not isinstance(task, PruningTask):
            refuse("--penalty-solver proximal needs a task with a pruner: translation_neuroprune")
        return criterion

    def forward(self, model, sample, reduce=True):
        """As fairseq's; in training the returned loss includes the penalty.

        Returns:
            loss (scalar, summed over tokens), sample_size, logging_output (plain loss).
        """
        loss, sample_size, logging_output = super().forward(model, sample, reduce)
        penalty = self.penalties.in_loss(model) if model.training and reduce else None
        if penalty is not None:
            loss = loss + sample_size * penalty
        return loss, sample_size, logging_output
