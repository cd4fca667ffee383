"""--shrink: what is pruned is cut out of the model at the end of an epoch, while it trains.

Pruned heads and neurons are zero with all their biases, have a gradient of exactly zero and are
held there, so without them the run is the same run, only faster: the flag changes the speed and
the files, not the result. Checkpoints written from then on are compact ones
(see compact.sizes); the same command resumes from them.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from fairseq.tasks.translation import TranslationConfig

from neuroprune_fairseq.compact.cutting import Plan, cuts_something, plan_of_pruned
from neuroprune_fairseq.compact.sizes import head_numbers
from neuroprune_fairseq.plugin import compat
from neuroprune_fairseq.plugin.guarded_task import GuardedTask
from neuroprune_fairseq.plugin.trainer import check_run, compact_trainer_

logger = logging.getLogger(__name__)

HeadNumbers = dict[str, list[int]]


@dataclass
class ShrinkingConfig(TranslationConfig):
    """Flags of shrinking."""

    shrink: bool = field(
        default=False,
        metadata={
            "help": "at the end of an epoch cut pruned heads and neurons out of the model, so that "
            "the following epochs are faster; checkpoints are then compact ones"
        },
    )


def with_original_numbers(
    records: list[dict[str, Any]], numbers: HeadNumbers
) -> list[dict[str, Any]]:
    """Records of a cut model's modules in terms of the model that it was cut from.

    Args:
        records: as pruning.eliminate_redundant_heads gives them, without modules that are gone.
        numbers: the original numbers of the heads that were left, by module, in forward order.

    Returns:
        One record for every module of ``numbers``.
    """
    found = {record["module"]: record for record in records}
    gone = dict.fromkeys(key for record in records for key in record)
    translated = []
    for module, old in numbers.items():
        record = found.get(module, {**gone, "heads_kept": [], "replaced": {}})
        replaced = record["replaced"].items()
        translated.append(
            {
                **record,
                "module": module,
                "heads_kept": [old[head] for head in record["heads_kept"]],
                "replaced": {old[i]: None if j is None else old[j] for i, j in replaced},
            }
        )
    return translated


class ShrinkingTask(GuardedTask):
    """Translation whose model may get smaller in training.

    Subclasses say when (:attr:`may_shrink`, and by calling :meth:`shrink_`) and override
    :meth:`before_shrink_` and :meth:`after_shrink_`.
    """

    def __init__(self, cfg: ShrinkingConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.optimizer: Any = None
        self._trainer: Any = None
        if cfg.shrink:
            compat.tell_tasks_their_trainer()

    # For subclasses.

    @property
    def may_shrink(self) -> bool:
        """Whether nothing refers to heads that would be cut out."""
        return True

    def before_shrink_(self, plan: Plan) -> None:
        """The model is going to be cut: leave of what belongs to its parts what the plan keeps."""

    def after_shrink_(self) -> None:
        """The model was cut: make anew what refers to its weights."""

    # What fairseq calls.

    def use_trainer(self, trainer: Any) -> None:
        """Before an epoch begins (compat.tell_tasks_their_trainer)."""
        if self.cfg.shrink and self._trainer is None:
            check_run(trainer.cfg)
            self._trainer = trainer

    # What happens.

    def in_original_numbers(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records of modules, in which heads have the numbers that they began with."""
        if self._trainer is None:
            return records
        settings, model = self._trainer.cfg.model, self._trainer.get_model()
        return with_original_numbers(records, head_numbers(settings, model))

    def shrink_(self) -> None:
        """Cut what is pruned out of the model, if there is anything."""
        if not self.may_shrink:
            return
        model = self._trainer.get_model()
        plan = plan_of_pruned(model)
        if not cuts_something(plan, model):
            return
        self.before_shrink_(plan)
        compact_trainer_(self._trainer, plan)
        self.optimizer = self._trainer.optimizer
        self.after_shrink_()
        left = sum(parameter.numel() for parameter in model.parameters())
        logger.info(f"cut out what is pruned: {left:,} parameters are left")
