"""``<name>_neuroprune``: tasks and criterions of fairseq, or of another --user-dir, that prune."""

from dataclasses import dataclass
from typing import Any, Optional

from fairseq.criterions import (
    CRITERION_DATACLASS_REGISTRY,
    CRITERION_REGISTRY,
    register_criterion,
)
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY, register_task

from neuroprune_fairseq.plugin.criterion import PenalisedCriterion
from neuroprune_fairseq.plugin.flags import CriterionFlags, TaskFlags
from neuroprune_fairseq.plugin.task import PruningTask

TASKS = (
    *("translation", "translation_multi_simple_epoch", "translation_from_pretrained_bart"),
    *("translation_lev", "language_modeling", "masked_lm", "denoising", "sentence_prediction"),
)
CRITERIONS = (
    *("label_smoothed_cross_entropy", "cross_entropy", "adaptive_loss"),
    *("masked_lm", "sentence_prediction", "nat_loss"),
)


def prunable_task(name: str) -> type:
    """Register ``<name>_neuroprune``: the task of this name, which prunes.

    Args:
        name: of a registered task; one of your own --user-dir does as well::

            import neuroprune_fairseq
            from fairseq.tasks import register_task

            @register_task("my_translation", dataclass=MyConfig)
            class MyTranslationTask(TranslationTask): ...

            neuroprune_fairseq.prunable_task("my_translation")

    Returns:
        The new class.
    """
    base, flags = TASK_REGISTRY[name], TASK_DATACLASS_REGISTRY.get(name)
    return _combine(f"{name}_neuroprune", PruningTask, base, TaskFlags, flags, register_task)


def prunable_criterion(name: str) -> type:
    """Register ``<name>_neuroprune``: the criterion of this name, with penalties and teachers.

    Args:
        name: of a registered criterion, as for :func:`prunable_task`.

    Returns:
        The new class.
    """
    base, flags = CRITERION_REGISTRY[name], CRITERION_DATACLASS_REGISTRY.get(name)
    return _combine(
        f"{name}_neuroprune", PenalisedCriterion, base, CriterionFlags, flags, register_criterion
    )


def _combine(
    name: str, ours: type, base: Any, our_flags: type, flags: Optional[type], register: Any
) -> type:
    """The class and its settings: ours mixed into fairseq's."""
    kind = "Task" if register is register_task else "Criterion"
    title = base.__name__.removesuffix(kind).removesuffix("Loss") + f"Neuroprune{kind}"
    body: dict[str, Any] = {
        "__doc__": f"fairseq's {base.__name__}, with a pruner.",
        "__module__": __name__,
    }
    settings_of = (our_flags, flags or FairseqDataclass)
    settings: Any = dataclass(type(f"{title}Config", settings_of, {"__module__": __name__}))
    if flags is None:  # a legacy class, whose flags come from a parser

        def add_args(parser: Any) -> None:
            base.add_args(parser)
            gen_parser_from_dataclass(parser, settings())

        body["add_args"] = staticmethod(add_args)
    new = type(title, (ours, base), body)
    return register(name, dataclass=settings if flags else None)(new)


for _name in TASKS:
    prunable_task(_name)
for _name in CRITERIONS:
    prunable_criterion(_name)
