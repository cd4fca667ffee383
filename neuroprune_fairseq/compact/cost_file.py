"""A table of costs as a JSON file, and whether it is one of a given model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune_fairseq.compact.cost_table import CostTable, layer_shapes
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

LARGEST_FILE, LARGEST_COST = 1_000_000, 1e15  # bytes; of any unit
KINDS = ("encoder_self", "decoder_self", "decoder_cross")
SIDES = ("encoder", "decoder")
FIELDS = {field.name for field in dataclasses.fields(CostTable)}


def _is_cost(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST_COST


def _is_rising(values: Any) -> bool:
    """Whether this is a list of at least two costs, none below the one before it."""
    if not (isinstance(values, list) and len(values) > 1 and all(map(_is_cost, values))):
        return False
    return values == sorted(values)


def _are_points(points: Any) -> bool:
    """Whether this is a list of [neurons, cost], both rising, from 0 neurons."""
    pairs = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
    if not (pairs and _is_rising([cost for _, cost in points])):
        return False
    neurons = [number for number, _ in points]
    return {*map(type, neurons)} == {int} and neurons[0] == 0 and neurons == sorted({*neurons})


def _is_of(content: Any, names: Sequence[str], test: Any) -> bool:
    return isinstance(content, dict) and {*content} <= {*names} and all(map(test, content.values()))


def _fault(content: Any) -> str:
    """What is wrong with the JSON of a table, "" if nothing."""
    if not isinstance(content, dict) or {*content} != FIELDS:
        return f"must hold {', '.join(sorted(FIELDS))}, and nothing else"
    settings = content["settings"]
    dims = settings.get("model", {}) if isinstance(settings, dict) else None
    right = {
        "unit must be text": isinstance(content["unit"], str),
        "fixed must be a finite number >= 0": _is_cost(content["fixed"]),
        "layer must give encoder and decoder finite numbers >= 0":
            _is_of(content["layer"], SIDES, _is_cost),
        f"attention must give {', '.join(KINDS)} costs of 0, 1, 2 ... heads that don't fall":
            _is_of(content["attention"], KINDS, _is_rising),
        "mlp must give encoder and decoder pairs of neurons, from 0, and costs that don't fall":
            _is_of(content["mlp"], SIDES, _are_points),
        "per_stack must be true or false": isinstance(content["per_stack"], bool),
        "settings must be an object, its model one of whole numbers":
            isinstance(dims, dict) and {*map(type, dims.values())} <= {int},
    }  # fmt: skip
    return next((fault for fault, holds in right.items() if not holds), "")


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_cost_table(path: str | Path) -> CostTable:
    """Read what :func:`write_cost_table` wrote.

    Raises:
        SystemExit: one line that names the file and what is wrong with it.
    """
    if not Path(path).is_file():
        refuse(f"{path}: no such table of costs; neuroprune-profile writes one")
    with refusing(f"{path} cannot be read", OSError), open(path, "rb") as file:
        text = file.read(LARGEST_FILE + 1)
    content = _parsed(text)
    fault = "is larger than 1 MB" if len(text) > LARGEST_FILE else _fault(content)
    if fault:
        refuse(f"{path} is no table of costs: {fault}; neuroprune-profile writes such files")
    points = {side: [(n, cost) for n, cost in found] for side, found in content["mlp"].items()}
    return CostTable(**{**content, "mlp": points})


def write_cost_table(table: CostTable, path: str | Path) -> None:
    """Write a table as JSON, as a whole or not at all.

    Raises:
        SystemExit: one line, when it cannot be written.
    """
    text = json.dumps(dataclasses.asdict(table), indent=1, ensure_ascii=False) + "\n"
    unwritable = f"{path} cannot be written; make room or name another file"
    with refusing(unwritable, OSError), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def model_dims(model: nn.Module) -> dict[str, int]:
    """What of a model must be equal for a table to hold, of a cut model before the cut.

    Args:
        model: a fairseq model, not wrapped.

    Returns:
        By fairseq's names, each with the side before it: layers, embed_dim, attention_heads,
        head_dim, ffn_embed_dim and vocabulary; what a side has none of is left out.
    """
    found: dict[str, int] = {}
    shapes = layer_shapes(model)
    for side in sorted({shape.side for shape in shapes}):
        found[f"{side}_layers"] = sum(shape.side == side for shape in shapes)
        embedding = getattr(getattr(model, side, None), "embed_tokens", None)
        if rows := getattr(embedding, "num_embeddings", None):
            found[f"{side}_vocabulary"] = rows
    for block in attention_blocks(model):
        side = block.kind.partition("_")[0]
        found[f"{side}_attention_heads"] = block.full_num_heads
        found[f"{side}_head_dim"] = block.head_dim
        found[f"{side}_embed_dim"] = block.out_proj.out_features
    sides = {shape.name: shape.side for shape in shapes}
    for mlp in mlp_blocks(model):
        found[f"{sides[mlp.name]}_ffn_embed_dim"] = mlp.full_ffn_embed_dim
    return found


def _misfit(measured: Mapping[str, int], dims: Mapping[str, int]) -> str:
    for name, size in dims.items():
        expected = measured.get(name)
        gone = name.endswith("_layers") and expected is not None and size <= expected
        if size != expected and not gone:
            of = "no such size" if expected is None else expected
            return f"{name} is {size}, the table's is {of}"
    return ""


def check_fits(table: CostTable, model: nn.Module) -> None:
    """Refuse a table that was measured on a model of other dimensions.

    Args:
        table: measured, or counted (without settings), which fits what it was counted for.
        model: a fairseq model, not wrapped, dense or cut; it may have lost layers.

    Raises:
        SystemExit: one line that names --cost-table.
    """
    measured = table.settings.get("model")
    if measured is None:
        return
    if misfit := _misfit(measured, model_dims(model)):
        refuse(
            f"--cost-table: measured on another model: {misfit}; "
            "neuroprune-profile measures one for this model"
        )
