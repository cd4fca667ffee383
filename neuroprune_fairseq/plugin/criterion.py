"""Any criterion of fairseq with penalties (Algorithm 1's objective) and teachers."""

import math
from typing import Any

from fairseq.logging import metrics

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.plugin.distillation import Distillation, recorded
from neuroprune_fairseq.plugin.task import PruningTask
from neuroprune_fairseq.pruners.penalties import Penalties

DISTILL_LOSS = "distill_loss"


class PenalisedCriterion:
    """Mixed into a criterion of fairseq (see registration.py): what its training loss gains.

        (1 - w) loss + w T² KL(teacher || student) + sample_size * penalty

    fairseq sums the loss over tokens and divides the gradient by sample_size later, so the
    penalty is multiplied by the batch's sample_size: its gradient is then that of a penalty on
    the per-token loss, whatever --update-freq, batch size or number of workers. The KL is a sum
    over tokens, as the loss is.

    The logged ``loss`` is always the plain one; validation computes nothing else.
    """

    penalties: Penalties
    distillation: Distillation

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> Any:
        criterion = super().build_criterion(cfg, task)
        criterion.penalties = Penalties(cfg)
        criterion.distillation = Distillation(cfg, criterion, task)
        if criterion.penalties.is_proximal and not isinstance(task, PruningTask):
            refuse("--penalty-solver proximal needs a task with a pruner: translation_neuroprune")
        return criterion

    def forward(self, model, sample, reduce=True):
        """As fairseq's; in training the returned loss includes teachers and penalty.

        Returns:
            loss (scalar, summed over tokens), sample_size, logging_output (plain loss).
        """
        if not (model.training and reduce):
            return super().forward(model, sample, reduce)
        self.distillation.read_teachers()
        with recorded(model) as calls:
            loss, sample_size, logging_output = super().forward(model, sample, reduce)
        if self.distillation:
            learnt, weight = self.distillation.loss(model, sample, calls), self.distillation.weight
            loss = (1 - weight) * loss + weight * learnt
            logging_output[DISTILL_LOSS] = learnt.data
        penalty = self.penalties.in_loss(model)
        if penalty is not None:
            loss = loss + sample_size * penalty
        return loss, sample_size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs):
        """As fairseq's, and ``distill_loss``, in bits for what ``loss`` counts in."""
        super().reduce_metrics(logging_outputs)
        if any(DISTILL_LOSS in log for log in logging_outputs):
            total = sum(log.get(DISTILL_LOSS, 0) for log in logging_outputs)
            size = sum(log.get("sample_size", 0) for log in logging_outputs)
            metrics.log_scalar(DISTILL_LOSS, total / size / math.log(2), size, round=3)
