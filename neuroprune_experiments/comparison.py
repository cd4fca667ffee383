"""BLEU and speed of many models side by side: the format of benchmarks/bleu_and_speed.py."""

# ruff: noqa: D101  (the fields are their documentation)
# No annotations of the future: Python would not know then which fields may be missing.

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NotRequired, TypedDict

from neuroprune_experiments.records import Bleu, Count, Rows, Share, fault, read_object
from neuroprune_fairseq.files.errors import refuse, refusing


class Model(TypedDict):
    """An entry of the list of models."""

    name: Annotated[str, "some"]
    checkpoint: NotRequired[Annotated[str, "some"]]  # exported here, if there is no engine
    engine: NotRequired[Annotated[str, "some"]]  # folder that neuroprune-export made of it
    method: NotRequired[Annotated[str, "some"]]  # default: as its checkpoint says
    settings: NotRequired[dict[str, Any]]  # models of equal ones differ in their seed only
    seed: NotRequired[int]


class ComparisonRow(TypedDict):
    """How a model translates with one engine, compute type, beam and batch size."""

    label: Annotated[str, "some"]
    method: Annotated[str, "some"]
    settings: NotRequired[dict[str, Any]]
    seed: NotRequired[int]
    bleu: NotRequired[Bleu]  # of the last subset; each other one's is in <subset>_bleu
    valid_bleu: NotRequired[Bleu]
    engine: str
    compute_type: str
    threads: Count
    beam: Count
    batch_size: Count
    sentences: Count  # that were timed
    generation_seconds: list[Count]  # round by round
    generated_tokens: NotRequired[Count]  # with </s>; a model may say more than another
    tokens_per_second: Count  # at the median of the seconds
    speedup: Count  # median over the rounds of the baseline's seconds / this model's
    speedup_range: list[Count]  # the lowest and the highest of these
    speedup_over_fairseq: NotRequired[Count]  # the same against the baseline in fairseq
    parameters: NotRequired[Count]  # as the checkpoint holds them
    compact_parameters: NotRequired[Count]  # without what is pruned
    layers: NotRequired[list[dict[str, Any]]]  # those left: name, heads by kind, neurons
    heads_kept: NotRequired[Count]
    heads_total: NotRequired[Count]
    total_sparsity: NotRequired[Share]


class Comparison(TypedDict):
    rows: Annotated[list[ComparisonRow], "some"]
    baseline: NotRequired[str]  # label of the model that speeds are compared with
    command: NotRequired[str]
    hardware: NotRequired[dict[str, Any]]


def read_comparison(path: str | Path) -> dict[str, Any] | None:
    """A result of benchmarks/bleu_and_speed.py; None if the file is something else."""
    return read_object(path, "rows", Comparison)


def read_models(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The models of a command line.

    Args:
        arguments: NAME=PATH of checkpoints and exported models, or one JSON file: a list of
            objects as :class:`Model`.

    Raises:
        SystemExit: one line that names the file or argument and what is wrong.
    """
    if len(arguments) == 1 and "=" not in arguments[0]:
        return _listed_models(arguments[0])
    models = []
    for text in arguments:
        name, _, path = text.partition("=")
        if not name or not path:
            refuse(f"--models {text}: must be NAME=PATH, or one JSON file")
        models.append({"name": name, "engine" if Path(path).is_dir() else "checkpoint": path})
    return _checked(models, "--models")


def _listed_models(path: str) -> list[dict[str, Any]]:
    with refusing(f"--models {path} cannot be read as JSON", OSError, ValueError, RecursionError):
        models = json.loads(Path(path).read_text(encoding="utf-8"))
    if found := fault(models, list[Model], "models"):
        refuse(f"--models {path} {found}")
    return _checked(models, f"--models {path}")


def _checked(models: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    names = [model["name"] for model in models]
    for model in models:
        name = model["name"]
        if names.count(name) > 1:
            refuse(f"{where}: '{name}' stands for more than one model")
        if not {"checkpoint", "engine"} & model.keys():
            refuse(f"{where}: '{name}' has neither 'checkpoint' nor 'engine'")
        if "checkpoint" in model and not Path(model["checkpoint"]).is_file():
            refuse(f"{where}: {model['checkpoint']}: no such checkpoint")
        if "engine" in model and not (Path(model["engine"]) / "model.bin").is_file():
            refuse(f"{where}: {model['engine']}: no model that neuroprune-export made")
    return models


def ratios(baseline: Sequence[float], seconds: Sequence[float]) -> dict[str, Any]:
    """The speed-up over a baseline that took turns with a model, round by round.

    Args:
        baseline: seconds of each round.
        seconds: the model's.
    """
    found = [base / own for base, own in zip(baseline, seconds, strict=True)]
    return {"speedup": median(found), "speedup_range": [min(found), max(found)]}


def comparison_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """What is shown of a comparison: a row of titles, then one for each row."""
    others = dict.fromkeys(n for r in rows for n in r if n.endswith("_bleu"))
    titles = ["model", *(name.removesuffix("_bleu") for name in others), "BLEU", "parameters"]
    shown = [[*titles, "engine", "beam", "batch", "tokens/s", "speed-up", "lowest to highest"]]
    for row in rows:
        bleu = [f"{row[n]:.2f}" if n in row else "-" for n in (*others, "bleu")]
        size = row.get("compact_parameters")
        low, high = row["speedup_range"]
        shown.append(
            [
                *(row["label"], *bleu, "-" if size is None else f"{size:,}"),
                *(f"{row['engine']} {row['compute_type']}", str(row["beam"])),
                *(str(row["batch_size"]), f"{row['tokens_per_second']:,.0f}"),
                *(f"{row['speedup']:.2f}", f"{low:.2f} to {high:.2f}"),
            ]
        )
    return shown
