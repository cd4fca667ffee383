"""``neuroprune-report CHECKPOINT... --out DIR``: one page that shows what pruning did."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from neuroprune_fairseq.files.atomic import working_folder
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing
from neuroprune_fairseq.files.text import document

PROG = "neuroprune-report"
PAGE = "index.html"
# In the page's order; each is the anchor of its section.
FIGURES = "patterns degrees positions importance layers heads training frontier speed".split()

DESCRIPTION = """\
Show what pruning did to some models: sparsity patterns, degrees of neurons, which heads went
and how important they were, the course of training, a map of heads, BLEU against heads and
sparsity, speeds. DIR gets index.html, which needs no network and no other file, and every
picture as PNG and SVG."""


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog=PROG, description=DESCRIPTION)
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="*",
        type=Path,
        metavar="CHECKPOINT",
        help="checkpoints of fairseq's transformer: dense, pruned or compact; the run log "
        "neuroprune.jsonl beside one is read too",
    )
    several = {"action": "extend", "nargs": "+", "default": []}
    add(
        *("--run",),
        **{**several, "type": Path, "metavar": "SAVE_DIR"},
        help="show the course of further trainings, from neuroprune.jsonl and train.log",
    )
    add(
        *("--results",),
        **{**several, "type": Path, "metavar": "FILE"},
        help="results of evaluate.sh, neuroprune-frontier or benchmarks/inference.py",
    )
    add(
        "--pretrained",
        type=Path,
        metavar="CHECKPOINT",
        help="the model that pruning started from, for the importance of removed heads",
    )
    add(
        *("--labels",),
        **{**several, "metavar": "TEXT"},
        help="what to call the checkpoints (default: after their folders)",
    )
    add(
        "--tolerance",
        type=float,
        default=1e-3,
        metavar="T",
        help="q, k, v, fc1 and fc2 weights with |w| < T count as zero (default: 1e-3)",
    )
    add(
        *("--figures",),
        **{**several, "choices": FIGURES, "metavar": "NAME"},
        help=f"only these, some of {', '.join(FIGURES)} (default: all there is data for)",
    )
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


def _write(out: Path, sections: Sequence, models: Sequence, notes: Sequence[str]) -> list[Path]:
    """Draw and write everything beside ``out``, then move it there.

    Returns:
        The paths, the page first.
    """
    from tqdm import tqdm

    from neuroprune_experiments.report.page import render
    from neuroprune_experiments.report.panels import draw_panels, inline_svg, write_picture

    pictures = [
        picture
        for section in sections
        for picture in [*section.pictures, *(folded for _, folded in section.folded)]
    ]
    svgs, names = {}, [PAGE]
    place = out.resolve()
    with working_folder(place.parent, place.name) as scratch:
        folder = scratch / place.name
        folder.mkdir()
        for picture in tqdm(pictures, desc="Pictures", disable=None):
            panels = draw_panels(picture)
            svgs[picture.name] = list(map(inline_svg, panels))
            names += [path.name for path in write_picture(picture, panels, folder)]
        page = document(render(sections, svgs, models, notes))
        (folder / PAGE).write_text(page, encoding="utf-8")
        if not (place.is_dir() and any(place.iterdir())):
            os.replace(folder, place)
        else:  # which may have other files, too; the page when its pictures are there
            for name in reversed(names):
                os.replace(folder / name, place / name)
    return [out / name for name in names]


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
    # After the command line, since this takes seconds.
    from neuroprune_experiments.report.contents import make_sections, notes_on, read_all

    contents = read_all(args)
    sections = make_sections(contents)
    if args.figures:
        sections = [section for section in sections if section.anchor in args.figures]
        if not sections:
            refuse(f"--figures {' '.join(args.figures)}: there is nothing to draw these from")
    with refusing(f"--out {args.out} cannot be written; make room or name another folder", OSError):
        paths = _write(args.out, sections, contents.models, notes_on(args, contents))
    size = paths[0].stat().st_size / 1e6
    print(f"{paths[0]} ({size:.1f} MB), {len(paths) - 1} files of pictures beside it")
