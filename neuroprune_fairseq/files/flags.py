"""What the settings that fairseq knows take, by their names.

They are the fields of its configuration, and the flags of the models, tasks and the like that are
registered with it, whoever wrote them.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import typing
from argparse import Namespace
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import interpret_dc_type
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf

# What a flag takes; a class is a dataclass of fairseq's, whose fields are settings again.
NUMBER, NAME, TEXT, DATA, LAYERS = "number", "name", "text", "data", "layers"
Kinds = dict[str, frozenset]
PLAIN = (int, float, bool, type(None))
PLAIN_TYPES = frozenset({int, float, bool})


def _kind_of_type(hint: Any) -> Any:
    inner = interpret_dc_type(hint)
    if inspect.isclass(inner) and issubclass(inner, FairseqDataclass):
        return inner
    if inner in PLAIN_TYPES:
        return NUMBER
    return TEXT if inner is str or inspect.isclass(inner) and issubclass(inner, Enum) else DATA


def _kind_of_action(action: argparse.Action) -> Any:
    if action.nargs == 0:
        return NUMBER
    if action.nargs not in (None, "?"):
        return DATA
    if action.type in (None, str):
        return TEXT
    return NUMBER if action.type in PLAIN_TYPES else DATA


def _merged(tables: Iterable[Mapping[str, frozenset]]) -> Kinds:
    kinds: Kinds = {}
    for table in tables:
        for name, found in table.items():
            kinds[name] = kinds.get(name, frozenset()) | found
    return kinds


@functools.cache
def fields_of(dataclass: type) -> Kinds:
    """What the fields of a dataclass take."""
    try:
        hints = typing.get_type_hints(dataclass)
        return {name: frozenset([_kind_of_type(hint)]) for name, hint in hints.items()}
    except (NameError, TypeError, RuntimeError):  # of somebody's own class
        return {}


@functools.cache
def _flags_of(registered: type) -> Kinds:
    """What the flags of a registered model, task or the like take, by their names."""
    parser = argparse.ArgumentParser(prog="", add_help=False, conflict_handler="resolve")
    try:
        getattr(registered, "add_args", lambda parser: None)(parser)
    except Exception:  # somebody's own class, or one of fairseq's that lacks a package
        return {}
    flags = {action.dest: frozenset([_kind_of_action(action)]) for action in parser._actions}
    dataclass = getattr(registered, "__dataclass", None)
    return _merged([flags, fields_of(dataclass) if dataclass else {}])


def as_dict(settings: Any) -> dict[Any, Any] | None:
    """The content of a Namespace, dictionary or container of OmegaConf's, None of another kind."""
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings)
    settings = vars(settings) if type(settings) is Namespace else settings
    return settings if type(settings) is dict else None


@functools.cache
def _always_known() -> Kinds:
    groups = (_kind_of_type(hint) for hint in typing.get_type_hints(FairseqConfig).values())
    tables = [fields_of(group) for group in groups if isinstance(group, type)]
    names = dict.fromkeys(["arch", "task", "_name", *REGISTRIES], frozenset([NAME]))
    # By neuroprune_shapes compact files of an earlier version are known, to be refused.
    own = {"neuroprune_shapes": frozenset([DATA]), "per_layer_config": frozenset([LAYERS])}
    return _merged([*tables, fields_of(TransformerConfig), names, own])


def known_flags(settings: dict[Any, Any]) -> tuple[Kinds, set[str]]:
    """What all flags of the classes named in some settings take, and which are model or task."""
    named: set[str] = set()
    for group in (settings, *filter(None, map(as_dict, settings.values()))):
        values = (group.get(key) for key in ("arch", "_name", "task", *REGISTRIES))
        named.update(value for value in values if type(value) is str)
    models_and_tasks = (ARCH_MODEL_REGISTRY, MODEL_REGISTRY, TASK_REGISTRY)
    others = [registry["registry"] for registry in REGISTRIES.values()]
    own = _merged(_flags_of(r[name]) for r in models_and_tasks for name in named if name in r)
    rest = (_flags_of(r[name]) for r in others for name in named if name in r)
    return _merged([own, *rest, _always_known()]), {*own, "per_layer_config"}
