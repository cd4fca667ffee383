"""Which settings of a checkpoint are used: those that fairseq knows, and only plain values.

A checkpoint's settings go where its weights do not: fairseq gives some of them to ``eval``, names
files and other checkpoints by them, and scripts make flags of them. So a file made by a stranger
must not choose them freely. What passes is a matter of the value, whatever its name:

- numbers, booleans and None, under any name (a model that somebody else registered loads, too);
- under a name that fairseq, or a model or task registered with it, has as a flag, also text, if the
  flag takes text: either of characters of which no call, index or flag can be written, or
  a literal of bounded size, as in ``"[(512, 3)] * 20"``; lists and dictionaries of these where the
  flag takes more than one value.

Everything else is left out, or makes the file unusable where its model cannot be built without it.
"""

from __future__ import annotations

import ast
import re
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import omegaconf_no_object_check
from omegaconf import OmegaConf, open_dict

from neuroprune_fairseq.files.flags import (
    DATA,
    LAYERS,
    NAME,
    NUMBER,
    PLAIN,
    TEXT,
    Kinds,
    as_dict,
    fields_of,
    known_flags,
)

# Settings that name code to import or a program to start: never taken from a file.
NEVER = ("user_dir", "post_save_script")
# Of these an unusable value is only left empty: the model's weights are in the checkpoint.
_PLACE = re.compile("path|file|dir|data|model|checkpoint|codes|vocab|json")

# Evaluated, these characters can name, add and compare things, not call or index them.
_TEXT = re.compile(r"(?! *-.)[\w ./,:@+=~\u2581-]*|<[\w:/-]+>|\$\{\w+(\.\w+)*\}")
_NAME = re.compile(r"\w[\w.+-]*")
LONGEST_TEXT, LONGEST_LITERAL, MOST_VALUES, DEEPEST = 20_000, 10_000, 1_000_000, 8
MOST_REPEATED = 1000


class UnusableError(Exception):
    """A value that is not taken from a checkpoint."""


class SettingsError(Exception):
    """What makes a file unusable, as the rest of a sentence about it."""


# Text.


def _literal(node: ast.AST | None) -> Any:
    """The value of a literal; sums and products of lists are those that fairseq's help shows."""
    if isinstance(node, ast.Constant) and type(node.value) in (*PLAIN, str):
        if isinstance(node.value, str):
            _check_text(node.value)
        return node.value
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):  # JSON's
        return None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if type(value := _literal(node.operand)) in (int, float):
            return -value
    elif isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(element) for element in node.elts]
    elif isinstance(node, ast.Dict) and None not in node.keys:
        return {str(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values)}
    elif isinstance(node, ast.BinOp):
        left, right = _literal(node.left), _literal(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        repeated = isinstance(node.op, ast.Mult) and isinstance(left, list) and type(right) is int
        if repeated and len(left) * right <= MOST_REPEATED:
            return left * right
    raise UnusableError


def _parsed(text: str) -> Any:
    if len(text) > LONGEST_LITERAL:
        raise UnusableError
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableError from error


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT or not _TEXT.fullmatch(text):
        _parsed(text)


# Values.


def _is_layer(layer: Any) -> bool:
    """Whether this is what :data:`LAYERS` holds of one layer."""
    if type(layer) is dict and layer.keys() == {"removed"}:
        return layer["removed"] is True
    for part, size in layer.items() if type(layer) is dict else [(None, None)]:
        if part in ("self_attn", "encoder_attn") and type(size) is dict:
            heads = {key: number for key, number in size.items() if key != "num_attention_heads"}
            numbers = [size.get("num_attention_heads", 0)]
            if not {*heads} <= {"heads", "inputs"} or {*map(type, heads.values())} - {list}:
                return False
            numbers += [number for listed in heads.values() for number in listed]
        else:
            numbers = [size] if part == "intermediate_size" else [None]
        if {*map(type, numbers)} != {int}:
            return False
    return True


def _is_setting(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and (name[0] != "_" or name == "_name")


class _Checker:
    """Copies the settings of one model and notes what it leaves out."""

    def __init__(self, settings: dict[Any, Any]):
        self.kinds, self.own = known_flags(settings)
        self.notes: list[str] = []
        self.left = MOST_VALUES

    def data(self, value: Any, depth: int) -> Any:
        """A copy of plain values, text, and containers of these up to a depth."""
        self.left -= 1
        if type(value) in PLAIN:
            return value
        if type(value) is str:
            _check_text(value)
            return value
        if self.left < 0 or depth < 1:
            raise UnusableError
        if type(value) in (list, tuple):
            return type(value)([self.data(element, depth - 1) for element in value])
        content = as_dict(value)
        if content is None or not {*map(type, content)} <= {str, int}:
            raise UnusableError
        kept = {key: inner for key, inner in content.items() if key not in NEVER}
        kept = {self.data(key, 0): self.data(inner, depth - 1) for key, inner in kept.items()}
        if type(value) is Namespace:
            return Namespace(**{key: inner for key, inner in kept.items() if _is_setting(key)})
        return kept

    def _as(self, kind: Any, value: Any, depth: int) -> Any:
        """The value as a flag of this kind takes it."""
        text = type(value) is str
        if isinstance(kind, type):
            return self.group(value, fields_of(kind), depth - 1)
        if kind == NAME and not (text and _NAME.fullmatch(value)):
            raise UnusableError
        reference = text and value.startswith("${")  # to a setting that is checked, too
        if kind == NUMBER and not (reference or text and type(_parsed(value)) in PLAIN):
            raise UnusableError
        if kind == LAYERS and not (type(value) is dict and all(map(_is_layer, value.values()))):
            raise UnusableError
        if kind == TEXT:
            depth = 1 if type(value) in (list, tuple) else 0
        return self.data(value, depth)

    def _kept(self, name: str, value: Any, kinds: Kinds, depth: int) -> Any:
        """A setting's value; UnusableError where it is none that is taken."""
        if name in NEVER:
            return None
        if type(value) in PLAIN:
            return value
        if name in FairseqConfig.__dataclass_fields__ and as_dict(value) is not None:
            return self.group(value, self.kinds, depth - 1)
        for kind in sorted(kinds.get(name, ()), key=str):
            with suppress(UnusableError):
                return self._as(kind, value, depth)
        raise UnusableError

    def group(self, settings: Any, kinds: Kinds, depth: int = DEEPEST) -> Any:
        """A copy of a Namespace or dictionary of settings.

        Raises:
            SettingsError: a model or task cannot be built without what is no value to take.
        """
        content, kept = as_dict(settings), {}
        if content is None or depth < 1:
            raise UnusableError
        for name, value in content.items():
            try:
                if not _is_setting(name):
                    raise UnusableError
                kept[name] = self._kept(name, value, kinds, depth)
            except UnusableError:
                self.notes.append(repr(name)[:60])
                if _is_setting(name) and (takes := kinds.get(name)):
                    if takes & {TEXT, DATA} and _PLACE.search(name):
                        kept[name] = ""
                    elif name in self.own or kinds is not self.kinds:
                        raise SettingsError(_reason(name, value, takes)) from None
        return Namespace(**kept) if type(settings) is Namespace else kept


def _reason(name: str, value: Any, takes: Iterable[Any]) -> str:
    if type(value) in (str, bytes):
        try:
            _check_text(value)
        except (UnusableError, TypeError):
            return f"holds code in its setting {name}, which is not run"
    wanted = " or ".join(kind if type(kind) is str else "settings" for kind in takes)
    return f"holds no {wanted} in its setting {name}"


def check_settings(settings: Any) -> tuple[Any, list[str]]:
    """Take of a checkpoint's settings what may be used.

    Args:
        settings: ``args`` (a Namespace) or ``cfg`` (a dictionary of groups, each a Namespace or
            a dictionary, or OmegaConf's container of them); stays as it is.

    Returns:
        A copy in the same form, of plain containers; names of settings that were left out.

    Raises:
        SettingsError: there is one that is not used and without which no model can be built.
    """
    content = as_dict(settings)
    if content is None:
        raise SettingsError("has settings of another kind than fairseq writes")
    checker = _Checker(content)
    return checker.group(settings, checker.kinds), checker.notes


def take_settings_(state: dict[str, Any]) -> list[str]:
    """Leave of a checkpoint's settings what may be used, in place.

    Args:
        state: the content of a checkpoint. Its ``args`` and ``cfg`` are replaced by copies.

    Returns:
        Names of settings that were left out.

    Raises:
        SettingsError: as :func:`check_settings`.
    """
    notes: list[str] = []
    if (args := state.get("args")) is not None:
        state["args"], notes = check_settings(args if type(args) is Namespace else [])
    if (cfg := state.get("cfg")) is not None:
        kept, more = check_settings(cfg)
        notes += more
        state["cfg"] = _refill_(cfg, kept) if OmegaConf.is_config(cfg) else kept
    return list(dict.fromkeys(notes))


def _refill_(container: Any, groups: dict[str, Any]) -> Any:
    """Other content for a container of OmegaConf's that fairseq made with options of its own."""
    with open_dict(container), omegaconf_no_object_check():
        for name in list(container):
            del container[name]
        for name, group in groups.items():
            container[name] = group
    return container
