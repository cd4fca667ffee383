"""From the command line to the sections of the page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from neuroprune_experiments.report import (
    course,
    degrees,
    head_map,
    importance,
    outcome,
    patterns,
    removal,
)
from neuroprune_experiments.report.facts import AttentionFacts, ModelFacts
from neuroprune_experiments.report.panels import Section
from neuroprune_experiments.report.runs import Run, read_run
from neuroprune_experiments.report.sources import Results, labels_for, read_model, read_results
from neuroprune_fairseq.files.errors import refuse


@dataclass
class Contents:
    """Everything that was read."""

    models: list[ModelFacts] = field(default_factory=list)
    runs_of_models: dict[str, Run] = field(default_factory=dict)  # by the model's label
    further_runs: list[Run] = field(default_factory=list)
    results: Results = field(default_factory=Results)
    before: tuple[AttentionFacts, ...] = ()  # the modules that pruning started from


def _read_pretrained(path: Path, models: Sequence[ModelFacts]) -> tuple[AttentionFacts, ...]:
    """The modules that pruning started from; they must be those of all models."""
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
    labels = labels_for(args.checkpoints, args.labels)
    contents = Contents(results=read_results(args.results))
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


def _read_runs(args: argparse.Namespace, taken: Sequence[str]) -> list[Run]:
    """The runs named by --run beyond those of the checkpoints; each has a label of its own."""
    of_checkpoints = {path.resolve().parent for path in args.checkpoints}
    folders = dict.fromkeys(folder.resolve() for folder in args.run)
    runs: list[Run] = []
    for folder in folders:
        if folder not in of_checkpoints:
            used = {*taken, *(run.label for run in runs)}
            runs.append(read_run(folder, str(folder) if folder.name in used else folder.name))
    return runs


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """One run of each folder, the longest: several checkpoints may come from it."""
    by_folder: dict[Path, Run] = {}
    for run in runs:
        folder = run.folder.resolve()
        if folder not in by_folder or len(run.epochs) > len(by_folder[folder].epochs):
            by_folder[folder] = run
    return list(by_folder.values())


def make_sections(contents: Contents) -> list[Section]:
    """The figures for which there is something to show, in the page's order."""
    models, runs = contents.models, contents.runs_of_models
    found: list[Section | None] = []
    if models:
        found += [
            patterns.section(models),
            degrees.section(models),
            removal.positions_section(models),
            importance.section(models, contents.before) if contents.before else None,
            removal.layers_section(models),
            head_map.section(models, runs),
        ]
    found += [
        course.section(_distinct([*runs.values(), *contents.further_runs])),
        outcome.frontier_section(contents.results),
        outcome.speed_section(contents.results.speeds),
    ]
    return [section for section in found if section]


def notes_on(args: argparse.Namespace, contents: Contents) -> list[str]:
    """What a reader must know to judge the numbers."""
    notes = []
    if contents.models:
        notes.append(
            f"Weights of less than {args.tolerance:g} count as zero. Sparsity is the share of "
            "zeros among the q, k, v, fc1 and fc2 weights; what was cut out of a compact model "
            "counts as zero, too."
        )
        unknown = [model.label for model in contents.models if not model.knows_positions]
        if unknown:
            notes.append(
                f"Which heads were cut out of {', '.join(unknown)} is not in the file, so the "
                "figures on head positions and importance leave it out."
            )
        if not contents.before:
            notes.append(
                "The importance of removed heads (Figure 7, left) needs their weights before "
                "they were removed: --pretrained CHECKPOINT."
            )
    return notes
