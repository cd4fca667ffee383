"""Whether the task, the model and the criterion of a command belong together, by their names.

fairseq finds out when it builds or uses them, in bare assertions, in type errors, or in OmegaConf's
words where one takes over a setting that another does not have.
"""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import fields
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.masked_lm import MaskedLmLoss
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.models import (
    ARCH_MODEL_NAME_REGISTRY,
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    FairseqEncoderDecoderModel,
    FairseqEncoderModel,
    FairseqLanguageModel,
)
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from fairseq.tasks.denoising import DenoisingTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.masked_lm import MaskedLMTask
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from neuroprune_fairseq.files.errors import refuse

# What a task trains: the kind of model, and how to say it.
_TRAINS = {
    TranslationTask: (FairseqEncoderDecoderModel, "an encoder and a decoder (transformer)"),
    TranslationMultiSimpleEpochTask: (
        *(FairseqEncoderDecoderModel, "an encoder and a decoder (transformer)"),
    ),
    DenoisingTask: (FairseqEncoderDecoderModel, "an encoder and a decoder (bart_base)"),
    LanguageModelingTask: (FairseqLanguageModel, "a decoder alone (transformer_lm)"),
    MaskedLMTask: (FairseqEncoderModel, "an encoder alone (roberta_base)"),
}
_CRITERION_OF = {MaskedLmLoss: MaskedLMTask, SentencePredictionCriterion: SentencePredictionTask}
_NEEDS = {TranslationMultiSimpleEpochTask: "lang_pairs", TranslationFromPretrainedBARTTask: "langs"}
_TAKEN_OVER = re.compile(r"\$\{(task|model|criterion)\.(\w+)\}")  # a field's default


def _chosen(args: Namespace) -> dict[str, tuple[str, Any]]:
    """Per group the flag with its value, and the dataclass of its settings, if there is one."""
    model = ARCH_MODEL_NAME_REGISTRY.get(args.arch)
    return {
        "task": (f"--task {args.task}", TASK_DATACLASS_REGISTRY.get(args.task)),
        "model": (f"--arch {args.arch}", MODEL_DATACLASS_REGISTRY.get(model)),
        "criterion": (
            f"--criterion {args.criterion}",
            CRITERION_DATACLASS_REGISTRY.get(args.criterion),
        ),
    }


def _check_settings_taken_over(args: Namespace) -> None:
    chosen = _chosen(args)
    for flag, settings in chosen.values():
        for field in fields(settings) if settings else ():
            taken_over = _TAKEN_OVER.fullmatch(str(field.default))
            if not taken_over or hasattr(args, field.name):
                continue
            other, has = chosen[taken_over[1]]
            if taken_over[2] not in getattr(has, "__dataclass_fields__", ()):
                name = taken_over[2].replace("_", "-")
                refuse(f"{flag} needs a setting {name}, which {other} does not have; name another")


def check_belonging(args: Namespace) -> None:
    """Refuse a task, a model and a criterion of a command line that do not belong together.

    Args:
        args: of fairseq-train, with arch, task and criterion.

    Raises:
        SystemExit: one line that names two of the flags.
    """
    task, model = TASK_REGISTRY[args.task], ARCH_MODEL_REGISTRY.get(args.arch, object)
    for kind, (wanted, words) in _TRAINS.items():
        if issubclass(task, kind) and not issubclass(model, wanted):
            refuse(f"--arch {args.arch}: --task {args.task} trains models of {words}; name one")
    criterion = CRITERION_REGISTRY[args.criterion]
    for kind, own in _CRITERION_OF.items():
        if issubclass(criterion, kind) and not issubclass(task, own):
            refuse(
                f"--criterion {args.criterion} does not go with --task {args.task}; name another"
            )
    for kind, flag in _NEEDS.items():
        if issubclass(task, kind) and not getattr(args, flag, None):
            refuse(f"--task {args.task} needs --{flag.replace('_', '-')}")
    if issubclass(criterion, AdaptiveLoss) and not getattr(args, "adaptive_softmax_cutoff", None):
        refuse(f"--criterion {args.criterion} needs --adaptive-softmax-cutoff")
    _check_settings_taken_over(args)
