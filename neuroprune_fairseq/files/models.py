"""From a checkpoint to the model that it holds, of any family and compact or not."""

from __future__ import annotations

import argparse
import copy
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fairseq import checkpoint_utils, models
from fairseq.data import Dictionary, data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.multilingual_transformer import MultilingualTransformerModel
from fairseq.models.roberta import RobertaModel
from fairseq.models.transformer import TransformerModelBase
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from torch import Tensor, nn

from neuroprune_fairseq.files.checkpoint import (
    model_settings,
    read_checkpoint,
    refuse_split_name,
    settings_group,
)
from neuroprune_fairseq.files.errors import refuse, refusing

# Models that are built from a checkpoint's settings, and what is derived from them (bart).
_KNOWN: tuple[type, ...] = (TransformerModelBase, TransformerLanguageModel)
_KNOWN += (RobertaModel, MultilingualTransformerModel)


def settings_of(state: dict[str, Any], path: str | Path) -> argparse.Namespace:
    """The model settings of a checkpoint, with what was left open when the model was built.

    Args:
        state: as :func:`read_checkpoint` returns it.
        path: for messages.

    Raises:
        SystemExit: one line, when this is none of fairseq's Transformers.
    """
    settings: Any = copy.copy(model_settings(state))
    arch = getattr(settings, "arch", None)
    if not issubclass(ARCH_MODEL_REGISTRY.get(arch, object), _KNOWN):
        refuse(f"{path}: architecture {arch!r} is none of fairseq's Transformers")
    ARCH_CONFIG_REGISTRY[arch](settings)
    return settings


def _dictionary(weights: dict[str, Tensor], prefix: str) -> Dictionary:
    """A dictionary of the size that the embeddings of an encoder or decoder have."""
    rows = r"embed_tokens\.(embeddings\.\d+\.0\.)?weight$"  # the second of --adaptive-input
    names = [name for name in weights if name.startswith(prefix) and re.search(rows, name)]
    dictionary = Dictionary()
    for number in range(sum(len(weights[name]) for name in names) - len(dictionary)):
        dictionary.add_symbol(f"token{number}")
    return dictionary


def stand_in_dictionaries(state: dict[str, Any]) -> tuple[Dictionary, Dictionary]:
    """Dictionaries of the sizes that the embeddings have: a model is built without its corpus.

    Returns:
        source, target; the same one where a model has an encoder or a decoder alone.
    """
    source, target = (_dictionary(state["model"], f"{side}.") for side in ("encoder", "decoder"))
    empty = Dictionary()
    return (target if source == empty else source), (source if target == empty else target)


def check_dictionaries(
    state: dict[str, Any], path: str | Path, data: str | Path, languages: tuple[str, str]
) -> None:
    """Refuse a prepared corpus whose dictionaries have other sizes than a checkpoint's embeddings.

    Args:
        state: as :func:`read_checkpoint` returns it, of a translation model.
        path: the checkpoint, for messages.
        data: prepared corpus.
        languages: source, target.

    Raises:
        SystemExit: one line.
    """
    for language, expected in zip(languages, stand_in_dictionaries(state)):
        file = Path(data) / f"dict.{language}.txt"
        with refusing(f"{file}: no dictionary that can be read; scripts/prepare.sh makes one"):
            found = Dictionary.load(str(file))
        if len(found) != len(expected):
            sizes = f"{len(found)} words in place of {len(expected)}"
            refuse(f"{path} does not load with the dictionaries of --data {data}: {sizes}")


def check_words(
    state: dict[str, Any], what: str, source: Dictionary | None, target: Dictionary | None
) -> None:
    """Refuse dictionaries of other words than a checkpoint's, as far as can be known.

    A checkpoint tells their sizes, and where its corpus was; words are compared if it still is.

    Args:
        state: as :func:`read_checkpoint` returns it.
        what: the checkpoint, for messages.
        source: dictionary of the source side, None for none.
        target: dictionary of the target side, None for none.

    Raises:
        SystemExit: one line.
    """
    trained = settings_group(state, "task")
    data = str(getattr(trained, "data", None) or "").split(os.pathsep)[0]
    sizes, inferred = stand_in_dictionaries(state), (None, None)
    if data and Path(data).is_dir():  # where no language was named, as fairseq infers them
        inferred = data_utils.infer_language_pair(data)
    sides = zip(("source", "target"), (source, target), sizes, inferred)
    for side, own, sized, language in sides:
        if own is None:
            continue
        if len(sized) != len(own):
            refuse(f"{what}: its {side} dictionary has {len(sized)} words in place of {len(own)}")
        language = getattr(trained, f"{side}_lang", None) or language
        file = Path(data, f"dict.{language}.txt" if language else "dict.txt")
        if data and file.is_file():
            with refusing(f"{what} was trained with {file}, which cannot be read"):
                found = Dictionary.load(str(file))
            # Tasks add words at the end.
            if any(word != other for word, other in zip(found.symbols, own.symbols)):
                refuse(f"{what}: its {side} dictionary {file} has other words")


def _stand_in_task(state: dict[str, Any]) -> Any:
    """What models ask of a task when they are built: its dictionaries."""
    weights = state["model"]
    pairs = dict.fromkeys(name.split(".")[1] for name in weights if name.startswith("models."))
    if not pairs:
        source, target = stand_in_dictionaries(state)
        return SimpleNamespace(source_dictionary=source, target_dictionary=target)
    task = object.__new__(MultilingualTranslationTask)  # which such a model insists on
    task.model_lang_pairs, task.dicts = list(pairs), {}
    for pair in pairs:
        for language, side in zip(pair.split("-"), ("encoder", "decoder")):
            task.dicts[language] = _dictionary(weights, f"models.{pair}.{side}.")
    task.langs = list(task.dicts)
    return task


def _add_classification_heads_(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model the heads that it was fine-tuned with: tasks add them, not architectures."""
    for name, weight in weights.items():
        if match := re.fullmatch(r"classification_heads\.([^.]+)\.out_proj\.weight", name):
            dense = weights[f"classification_heads.{match[1]}.dense.weight"]
            model.register_classification_head(match[1], len(weight), len(dense))


def model_of(state: dict[str, Any], path: str | Path) -> nn.Module:
    """Build the model of a checkpoint, compact or not, and load its weights.

    Args:
        state: as :func:`read_checkpoint` returns it; stays as it is.
        path: for messages.

    Returns:
        The model, fp32, in evaluation mode, on the CPU.

    Raises:
        SystemExit: one line, when settings and weights do not fit.
    """
    settings, weights = settings_of(state, path), dict(state["model"])
    settings.encoder_embed_path = settings.decoder_embed_path = None  # the weights are here
    with refusing(f"{path}: weights and settings do not fit; take a checkpoint that is whole"):
        model = models.build_model(settings, _stand_in_task(state), from_checkpoint=True)
        _add_classification_heads_(model, weights)
        model.load_state_dict(weights, strict=True, model_cfg=settings)
    weights.clear()  # fairseq leaves a cycle of references to this dictionary
    return model.float().eval()


def stored_weights(model: nn.Module, old: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's weights as its checkpoint would hold them.

    Args:
        model: built from the checkpoint, changed or cut since.
        old: the weights that the checkpoint holds.

    Returns:
        By today's names, which models give old files' weights as they load them, in the precision
        of the checkpoint. What was one tensor stays one. Of buffers only those that the file had.
    """
    weights, cast = model.state_dict(), dict[int, Tensor]()
    plain = next((tensor.dtype for tensor in old.values() if tensor.is_floating_point()), None)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names += [name for name in old if name in weights and name not in names]
    for name in names:
        tensor, dtype = weights[name], old[name].dtype if name in old else plain
        if dtype != tensor.dtype:
            weights[name] = cast.setdefault(tensor.data_ptr(), tensor.to(dtype))
    return {name: weights[name] for name in names}


def load_model(path: str | Path) -> nn.Module:
    """Read a checkpoint and build its model: :func:`read_checkpoint`, :func:`model_of`."""
    return model_of(read_checkpoint(path), path)


def load_model_and_task(
    path: str | Path, data: str | Path, **overrides: Any
) -> tuple[nn.Module, Any]:
    """Build the model of a checkpoint as fairseq does, with its task.

    Args:
        path: a checkpoint.
        data: prepared corpus, for the dictionaries.
        **overrides: other settings of the task.

    Returns:
        The model on the CPU and fairseq's task, which has the dictionaries.

    Raises:
        SystemExit: one line, when checkpoint and dictionaries do not fit.
    """
    read_checkpoint(path)
    refuse_split_name(data)
    with refusing(f"{path} does not load with the dictionaries of --data {data}"):
        found, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides={"data": str(data), **overrides}
        )
    return found[0], task
