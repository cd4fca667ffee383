"""The files of results: what a line of each holds, their readers, and tables of them.

Every format is a class below; a file that does not hold to it is refused with the place.
"""

# ruff: noqa: D101  (the fields are their documentation)
# No annotations of the future: Python would not know then which fields may be missing.

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NotRequired, TypedDict, Union, get_args, get_origin
from typing import get_type_hints as hints_of
from typing import is_typeddict as is_object

from tabulate import tabulate

from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.files.results import check_writable, read_lines
from neuroprune_fairseq.files.text import csv_cell, markdown_cell

Rows = Sequence[Sequence[str]]  # the first are titles
# Numbers with the lowest and the highest value that they can have.
Bleu = Annotated[float, (0, 100)]
Share = Annotated[float, (0, 1)]
Count = Annotated[float, (0, 1e15)]


class Translation(TypedDict):
    """BLEU and speed of one and the same run."""

    bleu: Bleu  # detokenised, mixed case
    engine: NotRequired[str]  # that translated: fairseq, or one that neuroprune-export writes for
    compute_type: NotRequired[str]  # float32, int8_float32 ...: what its matrix products take
    threads: NotRequired[Count]
    beam: NotRequired[Count]
    batch_size: NotRequired[Count]  # most sentences
    generation_seconds: Count  # without loading
    generated_tokens: NotRequired[Count]  # with </s>
    tokens_per_second: NotRequired[Count]


class Evaluation(Translation):
    """A line of evaluate.sh."""

    label: str
    heads_kept: Count
    heads_total: Count
    heads_kept_per_module: Annotated[dict[str, Count], "some"]  # in forward order
    attn_sparsity: Share  # zeros among the q, k, v weights; (fc1, fc2 weights); all of these
    mlp_sparsity: Share
    total_sparsity: Share
    train_seconds: NotRequired[Count]


class FrontierRecord(TypedDict):
    """What plot and table need of a line of ``neuroprune-frontier run``, an Evaluation too."""

    method: Annotated[str, "some"]
    settings: NotRequired[dict[str, Any]]  # flag -> value
    seed: NotRequired[int]
    bleu: Bleu  # of the test set
    valid_bleu: Bleu  # of the validation set; by this alone runs are selected
    heads_kept: Count
    heads_total: Annotated[float, (1, 1e15)]
    total_sparsity: Share


class Speed(TypedDict):
    """A row of 'best' in the result of benchmarks/inference.py."""

    contender: str  # engine and model
    available_cores: Count
    batch_size: Count
    beam: Count
    tokens_per_second: Count
    speed_up: Count
    peak_bytes: NotRequired[Count | None]


class Speeds(TypedDict):
    best: Annotated[list[Speed], "some"]
    settings: NotRequired[dict[str, Any]]
    hardware: NotRequired[dict[str, Any]]


class ModuleRecord(TypedDict):
    module: str
    heads_kept: list[int]
    replaced: dict[str, int | None]  # head -> the one that took its place


class EpochRecord(TypedDict):
    """A line of neuroprune.jsonl."""

    epoch: int
    num_updates: NotRequired[float]
    heads_kept: NotRequired[float]
    attn_sparsity: NotRequired[float]
    mlp_sparsity: NotRequired[float]
    total_sparsity: NotRequired[float]
    modules: NotRequired[list[ModuleRecord]]


_WORDS = {int: "whole number", float: "number", str: "text", dict: "object", list: "list"}


def fault(value: Any, kind: Any, at: str = "") -> str:
    """What is wrong with a value that a JSON file holds, "" if nothing.

    Args:
        value: as json.loads returns it.
        kind: one of the classes above, or the type of one of their fields.
        at: its place, for the text.
    """
    bounds = None
    if get_origin(kind) is NotRequired:
        kind = get_args(kind)[0]
    if get_origin(kind) is Annotated:
        kind, bounds = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return "" if value is None else fault(value, get_args(kind)[0], at)
    plain = dict if is_object(kind) else get_origin(kind) or kind
    accepted = (int, float) if plain is float else plain
    if plain is not Any and (not isinstance(value, accepted) or isinstance(value, bool)):
        return f"has no {_WORDS[plain]} in '{at}'"
    if bounds and plain is not float and not value:
        return f"has nothing in '{at}'"
    if bounds and plain is float and not bounds[0] <= value <= bounds[1]:
        low, high = bounds
        return f"has {str(value)[:20]} in '{at}', which is not within {low:g} and {high:g}"
    return next(filter(None, _faults_inside(value, kind, at)), "")


def _faults_inside(value: Any, kind: Any, at: str) -> Any:
    if is_object(kind):
        for name, part in hints_of(kind, include_extras=True).items():
            place = f"{at}.{name}" if at else name
            if name in value:
                yield fault(value[name], part, place)
            elif name in kind.__required_keys__:
                yield f"lacks '{place}'"
    elif get_origin(kind) in (dict, list):
        items = value.items() if isinstance(value, dict) else enumerate(value, start=1)
        yield from (fault(item, get_args(kind)[-1], f"{at}.{name}") for name, item in items)


def _heads_fault(record: Mapping[str, Any]) -> str:
    return "keeps more heads than there are" if record["heads_kept"] > record["heads_total"] else ""


def evaluation_fault(record: dict[str, Any]) -> str:
    """What is wrong with a line of evaluate.sh, "" if nothing."""
    return fault(record, Evaluation) or _heads_fault(record)


def frontier_fault(record: dict[str, Any]) -> str:
    """What is wrong with a line of ``neuroprune-frontier run``, "" if nothing."""
    return fault(record, FrontierRecord) or _heads_fault(record)


def epoch_fault(record: dict[str, Any]) -> str:
    """What is wrong with a line of neuroprune.jsonl, "" if nothing."""
    if found := fault(record, EpochRecord):
        return found
    heads = (head for module in record.get("modules", []) for head in module["replaced"])
    return "" if all(map(str.isdigit, heads)) else "has no head's number in 'modules.replaced'"


def read_evaluations(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a file of evaluate.sh.

    Raises:
        SystemExit: one line that names the file and the place, when it is missing, empty or
            damaged; so for all readers here.
    """
    return read_lines(path, evaluation_fault, "scripts/evaluate.sh")


def check_results(path: Path) -> None:
    """Refuse a file that evaluate.sh cannot add to, before the work that its line takes."""
    if path.is_file() and path.stat().st_size:
        read_evaluations(path)
    check_writable(path)


def read_frontier(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The lines of one or many files of ``neuroprune-frontier run``."""
    writer = "neuroprune-frontier run"
    return [record for path in paths for record in read_lines(path, frontier_fault, writer)]


def read_epochs(path: str | Path) -> list[dict[str, Any]]:
    """The epochs of a neuroprune.jsonl in their order, of a repeated one the last."""
    records = {record["epoch"]: record for record in read_lines(path, epoch_fault, "fairseq-train")}
    return [records[epoch] for epoch in sorted(records)]


def read_object(path: str | Path, key: str, kind: type) -> dict[str, Any] | None:
    """A file that is one JSON object.

    Args:
        path: the file.
        key: what an object of this kind has.
        kind: a class as above.

    Returns:
        The object; None if the file is something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or key not in value:
        return None
    if found := fault(value, kind):
        refuse(f"{path} {found}")
    return value


def read_speeds(path: Path) -> dict[str, Any] | None:
    """A result of benchmarks/inference.py; None if the file is something else."""
    return read_object(path, "best", Speeds)


_COLUMNS = {
    "model": "{label}",
    "BLEU": "{bleu:.2f}",
    "heads kept": "{heads_kept} of {heads_total}",
    "attention sparsity": "{attn_sparsity:.3f}",
    "MLP sparsity": "{mlp_sparsity:.3f}",
    "total sparsity": "{total_sparsity:.3f}",
    "training s": "{train_seconds}",
    "tokens/s": "{tokens_per_second}",
    "translated by": "{engine}",
}


def _speed(record: Mapping[str, Any]) -> dict[str, str]:
    found = record.get("tokens_per_second")
    shown = {"tokens_per_second": "-" if found is None else f"{found:,.0f}"}
    return {**shown, "engine": translated_by(record)}


def translated_by(record: Mapping[str, Any]) -> str:
    """What a Translation was measured with, as far as it says: 'fairseq float32, beam 5'."""
    texts = [" ".join([record.get("engine", "fairseq"), record.get("compute_type", "")]).strip()]
    for name in ("beam", "batch_size", "threads"):
        if name in record:
            texts.append(f"{name.partition('_')[0]} {record[name]:g}")
    return ", ".join(texts)


def evaluation_rows(records: Sequence[Mapping[str, Any]]) -> Rows:
    """What is shown of evaluations: a row of titles, then one for each."""
    shown = ({"train_seconds": "-", **r, **_speed(r)} for r in records)
    return [[*_COLUMNS], *([text.format(**r) for text in _COLUMNS.values()] for r in shown)]


def markdown(rows: Rows) -> str:
    """A Markdown table, aligned for reading as plain text."""
    cells = [list(map(markdown_cell, row)) for row in rows]
    return tabulate(cells[1:], cells[0], tablefmt="github", disable_numparse=True)


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a CSV file under a temporary name first; returns ``path``."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(map(csv_cell, row) for row in rows)
    return path
