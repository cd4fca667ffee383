"""``neuroprune-report CHECKPOINT... --out DIR``: one page that shows what pruning did."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune_experiments import require
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing
from neuroprune_fairseq.files.text import printable

if TYPE_CHECKING:
    from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts
    from neuroprune_experiments.report.page import Section, Table
    from neuroprune_experiments.report.runs import Run

PROG = "neuroprune-report"
PAGE = "index.html"
# In the page's order; each is the anchor of its section.
FIGURES = "patterns degrees positions importance layers heads training frontier speed".split()

DESCRIPTION = """\
Show what pruning did to some models: sparsity patterns, degrees of neurons, which heads went
and how important they were, the course of training, a map of heads, BLEU against heads and
sparsity, speeds. DIR gets index.html, which needs no network and no other file, and every
picture as PNG and SVG."""


@dataclass
class Contents:
    """Everything that was read."""

    models: list[ModelFacts] = field(default_factory=list)
    runs_of_models: dict[str, Run] = field(default_factory=dict)  # by the model's label
    further_runs: list[Run] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # records.Evaluation
    frontier: list[dict[str, Any]] = field(default_factory=list)  # records.FrontierRecord
    speeds: list[dict[str, Any]] = field(default_factory=list)  # records.Speeds
    comparisons: list[dict[str, Any]] = field(default_factory=list)  # comparison.Comparison
    before: tuple[AttentionFacts, ...] = ()  # the modules that pruning started from


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog=PROG, description=DESCRIPTION)
    add = parser.add_argument
    several = {"action": "extend", "nargs": "+", "default": []}
    add(
        *("checkpoints",),
        **{"nargs": "*", "type": Path, "metavar": "CHECKPOINT"},
        help="checkpoints of fairseq's transformer: dense, pruned or compact; the run log "
        "neuroprune.jsonl beside one is read too",
    )
    text = "show the course of further trainings, from neuroprune.jsonl and train.log"
    add("--run", **several, type=Path, metavar="SAVE_DIR", help=text)
    text = (
        "results of evaluate.sh, neuroprune-frontier, benchmarks/bleu_and_speed.py or inference.py"
    )
    add("--results", **several, type=Path, metavar="FILE", help=text)
    text = "the model that pruning started from, for the importance of removed heads"
    add("--pretrained", type=Path, metavar="CHECKPOINT", help=text)
    text = "what to call the checkpoints (default: after their folders)"
    add("--labels", **several, metavar="TEXT", help=text)
    text = "q, k, v, fc1 and fc2 weights with |w| < T count as zero (default: 1e-3)"
    add("--tolerance", type=float, default=1e-3, metavar="T", help=text)
    text = f"only these, some of {', '.join(FIGURES)} (default: all there is data for)"
    add("--figures", **several, choices=FIGURES, metavar="NAME", help=text)
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--overwrite", action="store_true", help="replace the files of an earlier report in DIR")
    return parser


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """What can be refused before anything is read."""
    if not (args.checkpoints or args.run or args.results):
        parser.error("name at least one CHECKPOINT, --run or --results")
    if not 0 <= args.tolerance < float("inf"):
        parser.error(f"--tolerance {args.tolerance} must be a finite number >= 0")
    out = args.out
    if out.is_dir() and any(out.iterdir()) and not args.overwrite:
        parser.error(f"--out {out} exists; --overwrite replaces the report in it")
    if out.exists() and not out.is_dir():
        parser.error(f"--out {out} is no folder")
    if not out.resolve().parent.is_dir():
        parser.error(f"--out {out}: there is no folder {out.resolve().parent}")
    for path in [*args.checkpoints, *([args.pretrained] if args.pretrained else [])]:
        if not path.is_file():
            refuse(f"{path}: no such checkpoint")
    for path in args.run:
        if not path.is_dir():
            refuse(f"--run {path}: no such folder")


def _repeated(values: Sequence[Any]) -> Any:
    """A value that is there more than once, None without one."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def labels_for(paths: Sequence[Path], chosen: Sequence[str]) -> list[str]:
    """What the report calls its checkpoints.

    Args:
        paths: the checkpoints.
        chosen: by the user, for all or for none.

    Returns:
        The folder's name for fairseq's checkpoint*.pt, the file's own otherwise; both
        where that is not enough to tell them apart, and else the path.

    Raises:
        SystemExit: one line, for a checkpoint that is named twice, and for too few, too
            many or equal labels.
    """
    chosen, paths = list(map(printable, chosen)), [path.resolve() for path in paths]
    if path := _repeated(paths):
        refuse(f"{path} is named twice")
    if chosen and len(chosen) != len(paths):
        refuse(f"--labels: {len(chosen)} for {len(paths)} checkpoints; name each of them")
    if label := _repeated(chosen):
        refuse(f"--labels: '{label}' stands for more than one checkpoint")
    paths = [Path(printable(str(path))) for path in paths]
    short = [p.parent.name if p.stem.startswith("checkpoint") else p.stem for p in paths]
    both = [f"{path.parent.name}/{path.stem}" for path in paths]
    names = (chosen or short, both, list(map(str, paths)))
    return next(each for each in names if not _repeated(each))


def _read_runs(args: argparse.Namespace, taken: Sequence[str]) -> list[Run]:
    """The runs named by --run beyond those of the checkpoints; each has a label of its own."""
    from neuroprune_experiments.report.runs import read_run

    of_checkpoints = {path.resolve().parent for path in args.checkpoints}
    runs: list[Run] = []
    for folder in dict.fromkeys(folder.resolve() for folder in args.run):
        if folder not in of_checkpoints:
            used = {*taken, *(run.label for run in runs)}
            runs.append(read_run(folder, str(folder) if folder.name in used else folder.name))
    return runs


def _read_pretrained(path: Path, models: Sequence[ModelFacts]) -> tuple[AttentionFacts, ...]:
    """The modules that pruning started from; they must be those of all models."""
    from neuroprune_experiments.report.facts import read_model

    before = read_model(path, "pretrained", 0.0)[0]
    if before.is_compact:
        refuse(f"--pretrained {path} is compact: name the model from before heads were cut out")
    names = [(module.name, module.num_heads) for module in before.attention]
    for model in models:
        if names != [(module.name, module.num_heads) for module in model.attention]:
            refuse(f"--pretrained {path} has other attention modules than {model.label}")
    return before.attention


def read_all(args: argparse.Namespace) -> Contents:
    """Read what the command line names; results and runs first, as they are quick.

    Raises:
        SystemExit: one line, when a file is missing, damaged or of the wrong kind.
    """
    from tqdm import tqdm

    from neuroprune_experiments import records
    from neuroprune_experiments.comparison import read_comparison
    from neuroprune_experiments.report.facts import read_model

    labels, contents = labels_for(args.checkpoints, args.labels), Contents()
    for path in args.results:  # of four kinds, told apart by what they hold
        if speeds := records.read_speeds(path):
            contents.speeds.append(speeds)
        elif comparison := read_comparison(path):
            contents.comparisons.append(comparison)
        else:
            found = records.read_evaluations(path)
            contents.evaluations += found
            contents.frontier += [r for r in found if not records.frontier_fault(r)]
    contents.further_runs = _read_runs(args, labels)
    pairs = list(zip(args.checkpoints, labels))
    for path, label in tqdm(pairs, desc="Checkpoints", disable=None):
        model, run = read_model(path, label, args.tolerance)
        contents.models.append(model)
        if run:
            contents.runs_of_models[label] = run
    if args.pretrained:
        contents.before = _read_pretrained(args.pretrained, contents.models)
    return contents


def make_sections(contents: Contents) -> list[Section]:
    """The figures for which there is something to show, in the page's order."""
    from neuroprune_experiments.report import heads, outcome, weights

    models, found = contents.models, []
    if models:
        found += [
            weights.patterns_section(models),
            weights.degrees_section(models),
            heads.positions_section(models),
            heads.importance_section(models, contents.before),
            heads.layers_section(models),
            heads.heads_section(models, contents.runs_of_models),
        ]
    # One run of each folder, the longest: several checkpoints may come from it.
    runs = [*contents.runs_of_models.values(), *contents.further_runs]
    longest = {run.folder.resolve(): run for run in sorted(runs, key=lambda r: len(r.epochs))}
    found += [
        outcome.training_section([run for run in runs if run in longest.values()]),
        outcome.frontier_section(contents.evaluations, contents.frontier),
        outcome.speed_section(contents.speeds, contents.comparisons),
    ]
    return [section for section in found if section]


def models_table(models: Sequence[ModelFacts]) -> Table | None:
    """The table at the page's top; None without models."""
    from neuroprune_experiments.report.page import Table

    columns = ["model", "method", "heads kept", "attention sparsity", "MLP sparsity"]
    rows = [[*columns, "total sparsity", "parameters", "updates"]]
    for model in models:
        name = f"{model.label} (compact)" if model.is_compact else model.label
        parts = (f"{model.sparsity[f'{part}_sparsity']:.3f}" for part in ("attn", "mlp", "total"))
        updates = "-" if model.num_updates is None else f"{model.num_updates:,}"
        heads = f"{model.heads_kept} of {model.heads_total}"
        rows.append([name, model.method, heads, *parts, f"{model.parameters:,}", updates])
    return Table("Models", rows, text_columns=2) if models else None


def notes_on(args: argparse.Namespace, contents: Contents) -> list[str]:
    """What a reader must know to judge the numbers."""
    if not contents.models:
        return []
    notes = [
        f"Weights of less than {args.tolerance:g} count as zero. Sparsity is the share of "
        "zeros among the q, k, v, fc1 and fc2 weights; what was cut out of a compact model "
        "counts as zero, too."
    ]
    if not contents.before:
        notes.append(
            "The importance of removed heads (Figure 7, left) needs their weights before "
            "they were removed: --pretrained CHECKPOINT."
        )
    return notes


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``neuroprune-report``.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    # fairseq lets its own advice and other packages' debugging through.
    logging.getLogger().setLevel(logging.WARNING)
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    require("jinja2", "matplotlib")
    # After the command line, since this takes seconds.
    from neuroprune_experiments.report.page import write_page

    contents = read_all(args)
    sections = make_sections(contents)
    if args.figures:
        sections = [section for section in sections if section.anchor in args.figures]
        if not sections:
            refuse(f"--figures {' '.join(args.figures)}: there is nothing to draw these from")
    count = f"{len(contents.models)} model{'s' if len(contents.models) != 1 else ''}"
    what = f"What pruning did to {count}, figure by figure." if contents.models else "Results."
    texts = {"title": "NeuroPrune report", "subtitle": what, "notes": notes_on(args, contents)}
    with refusing(f"--out {args.out} cannot be written; make room or name another folder", OSError):
        paths = write_page(args.out, PAGE, sections, models_table(contents.models), **texts)
    size = paths[0].stat().st_size / 1e6
    print(f"{paths[0]} ({size:.1f} MB), {len(paths) - 1} files of pictures beside it")
