"""--compact: what is pruned is cut out of the model at the end of an epoch, while it trains.

Pruned heads and neurons are zero with all their biases, have a gradient of exactly zero and are
held there, so without them the run is the same run, only faster: the flag changes the speed and
the files, not the result. Only dropout within modules (--attention-dropout, --activation-dropout)
draws other masks for a smaller module, as with another seed. A pruned layer goes as a whole. Where
layer norms stand before the sublayers that changes nothing either, except that it draws no random
numbers for dropout, and that --clip-norm no longer counts the gradient of its biases. Where they
stand after, the layer was still two or three norms: without them the model computes something
else, a step that the rest of the run trains through.

Checkpoints written from then on are compact ones; the same command resumes from them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from torch import nn

from neuroprune_fairseq.compact.cutting import Plan, cuts_something, plan_of_pruned
from neuroprune_fairseq.compact.sizes import head_numbers
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import refusing
from neuroprune_fairseq.plugin.trainer import compact_trainer_

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
    return with_original_numbers(records, head_numbers(trainer.cfg.model, trainer.get_model()))


def compact_run_(trainer: Any, before_cut: Callable[[nn.Module, Plan], None]) -> bool:
    """Cut what is pruned out of the model of a run.

    Args:
        trainer: fairseq's.
        before_cut: called with the model and the plan, just before.

    Returns:
        Whether there was anything.
    """
    model = trainer.get_model()
    plan = plan_of_pruned(model)
    if not cuts_something(plan, model):
        return False
    before_cut(model, plan)
    compact_trainer_(trainer, plan)
    left = sum(parameter.numel() for parameter in model.parameters())
    logger.info(f"cut out what is pruned: {left:,} parameters are left")
    return True


def keep_checkpoint(trainer: Any, folder: Path, name: str) -> None:
    """Write the model as it is now as folder/checkpoint_NAME.pt, without the optimizer's state.

    Args:
        trainer: fairseq's.
        folder: --save-dir.
        name: of the model.
    """
    trainer.consolidate_optimizer()  # fairseq's own state_dict fails before it
    state = {**trainer.state_dict(), "last_optimizer_state": None}
    path = folder / f"checkpoint_{name}.pt"
    unwritable = f"--save-dir: {path} cannot be written; make room there"
    with refusing(unwritable, OSError, RuntimeError), replacing(path) as temporary:
        torch.save(utils.move_to_cpu(state), temporary)
    logger.info(f"kept the model as {path}")
