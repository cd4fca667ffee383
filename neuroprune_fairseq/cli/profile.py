"""``neuroprune-profile CHECKPOINT --data DIR --out COST.json``: what parts of a model cost."""

from __future__ import annotations

import argparse
import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from fairseq.tasks.translation import TranslationTask
from torch import nn
from tqdm import tqdm

from neuroprune_fairseq.cli.export import QUANTIZATIONS, check_supported
from neuroprune_fairseq.compact.cost_file import model_dims, write_cost_table
from neuroprune_fairseq.compact.cost_fit import cut_to, design, fit, take_turns
from neuroprune_fairseq.compact.cost_table import CostTable, layer_shapes
from neuroprune_fairseq.compact.cutting import cuts_something, make_plan
from neuroprune_fairseq.compact.state import check_settings
from neuroprune_fairseq.export.timing import ENGINES, Work, timer_maker
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing
from neuroprune_fairseq.files.hardware import hardware
from neuroprune_fairseq.files.models import load_model_and_task, settings_of

NUMBERS = ("beam", "batch_size", "threads", "sentences", "length")
HOW = ("engine", "compute_type", "subset", *NUMBERS)
COMPUTE_TYPES = {"ctranslate2": "int8", "fairseq": "float32"}  # where none is named


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="neuroprune-profile",
        description="Measure what the parts of a model cost in an engine, by heads, neurons and "
        "layers. Cuts of the checkpoint translate sentences of the corpus in turns, all to the "
        "same length; the table prices every shape of this architecture. Other work on the "
        "machine makes it wrong.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="dense model, as pruning gets it")
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared corpus")
    parser.add_argument("--out", required=True, metavar="COST.json", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace COST.json if it exists")
    parser.add_argument("--engine", choices=ENGINES, default="ctranslate2")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch-size", "--batch", type=int, default=64, help="sentences")
    parser.add_argument(
        "--threads", type=int, default=1, help="of fairseq; of ctranslate2: workers of one thread"
    )
    parser.add_argument(
        "--compute-type",
        choices=QUANTIZATIONS,
        help="of ctranslate2 (default: int8); fairseq computes in float32",
    )
    parser.add_argument("--subset", default="test", help="part of the corpus to translate")
    parser.add_argument("--sentences", type=int, default=256, metavar="N", help="how many of it")
    parser.add_argument(
        "--length", type=int, help="tokens of every translation (default: the references' mean)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="timings of every model, of which the shortest counts"
    )
    return parser


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is read."""
    out, engine = Path(arguments.out), arguments.engine
    for name in (*NUMBERS, "rounds"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value} must be at least 1")
    if engine == "fairseq" and arguments.compute_type not in (None, "float32"):
        parser.error(f"--compute-type {arguments.compute_type}: fairseq computes in float32 only")
    if engine == "ctranslate2" and importlib.util.find_spec("ctranslate2") is None:
        parser.error("--engine ctranslate2 needs the package of that name: pip install ctranslate2")
    if (out.exists() and not out.is_file()) or not os.access(out.parent, os.W_OK):
        parser.error(f"--out {out}: must be a file in an existing folder that can be written to")
    if out.exists() and not arguments.overwrite:
        parser.error(f"--out {out} exists; --overwrite replaces it")


def _check_dense(model: nn.Module, path: str | Path) -> None:
    dims = model_dims(model)
    if not {"encoder_layers", "decoder_layers"} <= dims.keys():
        refuse(f"{path}: only models with an encoder and a decoder are measured")
    pruned = cuts_something(make_plan(model), model)
    for shape in layer_shapes(model):
        heads, neurons = (dims[f"{shape.side}_{of}"] for of in ("attention_heads", "ffn_embed_dim"))
        pruned |= {*shape.heads.values()} != {heads} or shape.neurons != neurons
    if pruned:
        refuse(f"{path} is pruned already; measure the model that pruning begins with")


def _load_sentences(task: Any, data: str | Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset, the numbers of its sentences, and the length that they get."""
    subset = how["subset"]
    with refusing(f"--subset {subset}: {data} holds no such text; scripts/prepare.sh makes it"):
        task.load_dataset(subset)
        dataset = task.dataset(subset)
        numbers = range(min(how["sentences"], len(dataset)))
        mean = fmean(len(dataset[number]["target"]) - 1 for number in numbers)  # without </s>
    return {
        **{"dataset": dataset, "numbers": numbers},
        **{"length": how["length"] or max(1, round(mean))},
    }


def load_work(
    checkpoint: str | Path, data: str | Path, how: Mapping[str, Any]
) -> tuple[nn.Module, Work]:
    """The model of a checkpoint, and what it is timed with.

    Args:
        checkpoint: of a dense translation model.
        data: prepared corpus.
        how: engine, subset, sentences, length (None: the references' mean), beam, batch_size,
            threads and compute_type, as in the settings of a table.

    Raises:
        SystemExit: one line that names the flag or file.
    """
    state = read_checkpoint(checkpoint)
    settings = settings_of(state, checkpoint)
    check_settings(settings, str(checkpoint))
    if how["engine"] == "ctranslate2":
        check_supported(state, settings, str(checkpoint))
    model, task = load_model_and_task(checkpoint, data)
    if not isinstance(task, TranslationTask):
        refuse(f"{checkpoint}: only models of a translation task are measured")
    _check_dense(model.float().eval(), checkpoint)
    found = _load_sentences(task, data, how)
    if found["length"] >= (longest := model.max_decoder_positions()):
        refuse(f"--length {found['length']} must be below {longest}, the decoder's positions")
    flags = {name: how[name] for name in ("beam", "batch_size", "threads", "compute_type")}
    return model, Work(settings=settings, task=task, **found, **flags)


def profile(model: nn.Module, engine: str, work: Work, rounds: int) -> CostTable:
    """Time a design of cuts of a model, and fit a table to the shortest time of each.

    Args:
        model: dense, in evaluation mode.
        engine: one of ENGINES.
        work: to time.
        rounds: timings of each cut.
    """
    per_stack = engine == "ctranslate2"  # which knows one number of heads for a stack
    shapes, make_timer = design(layer_shapes(model), per_stack), timer_maker(engine, work)
    timers = [make_timer(cut_to(model, each)) for each in tqdm(shapes, "models", unit="model")]
    times = take_turns(timers, rounds)
    best = times.min(axis=0)
    table = fit(shapes, best, per_stack)
    misfits = [abs(table.cost(each) / time - 1) for each, time in zip(shapes, best)]
    facts = {
        **{"rounds": rounds, "models_timed": len(shapes), "dense": float(best[0])},
        "spread": float(np.median(np.median(times, axis=0) / best - 1)),
        "largest_misfit": float(max(misfits)),
        **{key: hardware()[key] for key in ("cpu", "cores")},
        "model": model_dims(model),
    }
    return replace(table, settings=facts)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``neuroprune-profile``.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    engine = arguments.engine
    _check(parser, arguments)
    arguments.compute_type = arguments.compute_type or COMPUTE_TYPES[engine]
    # fairseq's encoder masks, nothing a user could change.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    how = {name: getattr(arguments, name) for name in HOW}
    model, work = load_work(arguments.checkpoint, arguments.data, how)
    untimed = f"{arguments.checkpoint} cannot be timed in {engine}; an export takes room in TMPDIR"
    with refusing(untimed):
        table = profile(model, engine, work, arguments.rounds)
    how |= {"length": work.length, "sentences": len(work.numbers)}
    how["version"] = importlib.import_module(engine).__version__
    table = replace(table, settings={**how, **table.settings})
    write_cost_table(table, arguments.out)
    facts = table.settings
    print(
        f"{arguments.out}: {facts['models_timed']} models timed, dense {facts['dense']:.2f} "
        f"{table.unit}, of which {table.fixed / facts['dense']:.0%} no pruning touches; the table "
        f"is at most {facts['largest_misfit']:.1%} off, timings spread by {facts['spread']:.1%}"
    )


if __name__ == "__main__":
    main()
