"""--compact: what is pruned is cut out of the model at the end of an epoch, while it trains.

Pruned heads and neurons are zero with all their biases, have a gradient of exactly zero and are
held there, so without them the run is the same run, only faster: the flag changes the speed and
the files, not the result. Checkpoints written from then on are compact ones; the same command
resumes from them.
"""

import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from neuroprune_fairseq.compact import model as compact_model
from neuroprune_fairseq.compact.cutting import Plan, plan_of_pruned, shapes
from neuroprune_fairseq.compact.trainer import check_run, cut_trainer_

__all__ = ["check_run", "compact_trainer_", "follow_checkpoint_", "in_original_numbers"]

logger = logging.getLogger(__name__)


def with_original_numbers(
    records: list[dict[str, Any]], numbers: dict[str, list[int]]
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


def in_original_numbers(trainer: Any, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of modules, in which heads have the numbers that they began with."""
    numbers = getattr(trainer.cfg.model, "neuroprune_heads", None)
    return with_original_numbers(records, numbers) if numbers else records


def follow_checkpoint_(cfg: Any, settings: Any) -> None:
    """Ask for a compact model where training is to go on from a compact checkpoint, in place."""
    if settings.compact:
        compact_model.follow_checkpoint_(cfg)


def compact_trainer_(trainer: Any, before_cut: Callable[[nn.Module, Plan], None]) -> bool:
    """Cut what is pruned out of a trainer's model.

    Args:
        trainer: fairseq's.
        before_cut: called with the model and the plan, just before.

    Returns:
        Whether there was anything.
    """
    model = trainer.get_model()
    plan, sizes = plan_of_pruned(model), shapes(model)
    if all(len(kept) == sizes[name] for name, kept in plan.items()):
        return False
    before_cut(model, plan)
    cut_trainer_(trainer, plan)
    left = sum(parameter.numel() for parameter in model.parameters())
    logger.info(f"cut out what is pruned: {left:,} parameters are left")
    return True
