"""``neuroprune-frontier``: run a study, plot its results, print them as tables."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neuroprune_experiments import require
from neuroprune_experiments.flags import list_of, number
from neuroprune_experiments.frontier.methods import METHODS, Plan, parse_grid
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing

PROG = "neuroprune-frontier"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

RUN_HELP = """\
Fine-tune a pretrained checkpoint with many settings of one method and evaluate every model on
the validation and the test set. Any number of workers may run the same command at once; a
finished run is never repeated, and a run whose worker died is gone on with after a minute. In
RUN_DIR: results.jsonl (one line per run), study.db (Optuna's storage), a folder per run.
What follows -- goes to the script finetune_*.sh, and from there to fairseq-train."""

GRID_HELP = """\
settings to run: 'paper' (NeuroPrune's 6 x 2 x 16), or values for each flag, as in
'attn-penalty-weight=1e-4,1e-3;head-distance-threshold=0.2,0.3'"""

STORAGE_HELP = """\
Optuna's database for workers without a common file system, such as postgresql://HOST/NAME
(default: study.db in RUN_DIR, which is SQLite: all workers must see RUN_DIR)"""


_COUNT = number(int, 1, 10**9, "a whole number above 0")
_SEEDS = list_of(number(int, 0, 2**31, "a whole number of at least 0"))
_TOLERANCE = number(float, 0.0, 1e9, "a number of at least 0")
_BANDS = list_of(number(float, 0, 100, "a BLEU between 0 and 100"))
# What a picture of BLEU against speed, sparsity or heads can be narrowed to, by flag.
ONLY = {"engine": str, "compute-type": str, "beam": _COUNT, "batch-size": _COUNT}
_HEADS = list_of(number(int, 0, 10**9, "a number of heads"))


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--method", required=True, choices=[*METHODS], metavar="NAME", help=", ".join(METHODS))
    add("--data", required=True, type=Path, metavar="DIR", help="prepared corpus")
    add("--pretrained", required=True, type=Path, metavar="CKPT", help="checkpoint to start from")
    add("--out", required=True, type=Path, metavar="RUN_DIR", help="made where missing")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--grid", metavar="GRID", help=GRID_HELP)
    trials = "let a multi-objective sampler choose N settings in all (validation BLEU, heads kept, "
    which.add_argument("--trials", type=_COUNT, metavar="N", help=trials + "sparsity)")
    add("--seeds", type=_SEEDS, default=[1], metavar="N,N", help="every setting with each (1)")
    add("--epochs", type=_COUNT, default=15, metavar="N", help="length of a training (15)")
    tolerance = "weights with |w| < T are zeroed before a model is measured and translates (1e-3)"
    add("--tolerance", type=_TOLERANCE, default=1e-3, metavar="T", help=tolerance)
    add("--jobs", type=_COUNT, default=1, metavar="N", help="runs at a time (1)")
    add("--storage", metavar="URL", help=STORAGE_HELP)
    add("--study", metavar="NAME", help="name in the storage (default: RUN_DIR's name)")
    add("--scripts", type=Path, default=SCRIPTS, metavar="DIR", help="folder of finetune_*.sh")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog=PROG, description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|plot|table")
    raw = argparse.RawDescriptionHelpFormatter
    run = commands.add_parser(
        "run", help="search a method's settings", description=RUN_HELP, formatter_class=raw
    )
    run.set_defaults(action=_run)
    _add_run(run)
    plot = commands.add_parser("plot", help="draw BLEU, heads and sparsity of some results")
    plot.set_defaults(action=_plot)
    plot.add_argument("results", nargs="+", metavar="RESULTS", help="results.jsonl of a study")
    plot.add_argument("--out", required=True, metavar="PREFIX", help="PREFIX.png, .svg and .csv")
    plot.add_argument("--overwrite", action="store_true", help="replace them if they exist")
    axis = "BLEU against the speed-up that benchmarks/bleu_and_speed.py measured, sparsity or heads"
    plot.add_argument("--x", choices=["speed", "sparsity", "heads"], help=f"draw only {axis}")
    for flag, kind in ONLY.items():
        only = f"draw only results of this {flag.replace('-', ' ')}, with --x"
        plot.add_argument(f"--{flag}", type=kind, metavar="VALUE", help=only)
    edges = "edges of the validation BLEU bands (default: three, from 80 %% of the best up)"
    plot.add_argument("--bands", type=_BANDS, default=[], metavar="BLEU,BLEU", help=edges)
    table = commands.add_parser("table", help="best BLEU by number of heads; hypervolumes")
    table.set_defaults(action=_table)
    table.add_argument("results", nargs="+", metavar="RESULTS", help="results.jsonl of a study")
    rows = "a row for each of these, a method's best run with at most so many heads (default: "
    rows += "every number that occurs)"
    table.add_argument("--at-most", type=_HEADS, default=[], metavar="HEADS,HEADS", help=rows)
    return parser


def _make_folder(out: Path) -> None:
    with refusing(f"--out {out} cannot be made; name another folder", OSError):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        refuse(f"--out {out} cannot be written to")


def _run(args: argparse.Namespace, flags: Sequence[str]) -> None:
    grid = parse_grid(args.method, args.grid) if args.grid is not None else []
    for name in (METHODS[args.method].script, "evaluate.sh"):
        if not (args.scripts / name).is_file():
            refuse(f"--scripts {args.scripts} lacks {name}; name the checkout's folder scripts")
    # After the command line, since this takes seconds.
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from neuroprune_experiments.frontier.runner import Experiment, ScriptRunner
    from neuroprune_experiments.frontier.storage import experiment_facts, open_study
    from neuroprune_experiments.frontier.sweep import Sweep
    from neuroprune_fairseq.files.checkpoint import model_flags, read_checkpoint
    from neuroprune_fairseq.files.models import model_of
    from neuroprune_fairseq.method.sparsity import measure

    if not args.data.is_dir():
        refuse(f"--data {args.data}: no such folder; scripts/prepare.sh makes one")
    state = read_checkpoint(args.pretrained)
    architecture = " ".join(model_flags(state))
    heads_total = measure(model_of(state, args.pretrained))["heads_total"]
    _make_folder(args.out)
    experiment = Experiment(
        *(args.method, args.data, args.pretrained, args.out),
        *(args.epochs, args.tolerance, tuple(flags), args.scripts),
    )
    facts = experiment_facts(experiment, architecture)
    plan = Plan(args.seeds, grid, args.trials or 0, heads_total)
    lost = f"--out {args.out} cannot be written; the same command goes on"
    try:
        with refusing(lost, OSError, SQLAlchemyError, StorageInternalError):
            name = args.study or args.out.resolve().name
            study = open_study(experiment, facts, args.storage, name)
            runner = ScriptRunner(experiment, args.jobs)
            Sweep(study, args.method, args.out, plan, runner, args.jobs).work()
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _figure_6(args: argparse.Namespace) -> tuple[Callable, Callable]:
    """What draws the picture at a stem, and what writes its points to a path."""
    from neuroprune_experiments.comparison import read_comparison
    from neuroprune_experiments.frontier.figures import draw_frontier, write_points
    from neuroprune_experiments.records import read_frontier

    if named := next((flag for flag in ONLY if _given(args, flag) is not None), None):
        refuse(f"--{named} goes with --x")
    if len(args.bands) == 1:
        refuse("--bands needs at least two edges, as in --bands 30,32,34")
    if path := next(filter(read_comparison, args.results), None):
        refuse(f"{path} is a comparison of speeds: draw it with --x speed")
    how = {"records": read_frontier(args.results), "edges": sorted(args.bands)}
    return partial(draw_frontier, **how), partial(write_points, **how)


def _given(args: argparse.Namespace, flag: str) -> Any:
    return getattr(args, flag.replace("-", "_"))


def _tradeoff(args: argparse.Namespace) -> tuple[Callable, Callable]:
    """As :func:`_figure_6`, for ``--x``."""
    from neuroprune_experiments.frontier import tradeoff

    records = tradeoff.read_tradeoff(args.results)
    for flag in ONLY:
        records = tradeoff.narrowed(records, flag, _given(args, flag))
    tradeoff.check_axis(records, args.x)
    how = {"records": records, "x": args.x}
    return partial(tradeoff.draw_tradeoff, **how), partial(tradeoff.write_tradeoff, **how)


def _plot(args: argparse.Namespace, flags: Sequence[str]) -> None:
    draw, write = _tradeoff(args) if args.x else _figure_6(args)
    targets = [Path(f"{args.out}.{suffix}") for suffix in ("png", "svg", "csv")]
    folder = targets[0].parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        refuse(f"--out {args.out}: {folder} is no folder that can be written to")
    taken = [str(path) for path in targets if path.exists()]
    if taken and not args.overwrite:
        refuse(f"--out {args.out}: {taken[0]} exists; --overwrite replaces it")
    with refusing(f"--out {args.out} cannot be written; make room or name another", OSError):
        print("Picture:", *draw(stem=args.out))
        print("Points:", write(path=targets[2]))


def _table(args: argparse.Namespace, flags: Sequence[str]) -> None:
    from neuroprune_experiments.frontier.table import format_tables
    from neuroprune_experiments.records import read_frontier

    print(format_tables(read_frontier(args.results), args.at_most))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``neuroprune-frontier``.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags: list[str] = []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, flags = arguments[:place], arguments[place + 1 :]
    # fairseq lets its own advice and other packages' debugging through.
    logging.getLogger().setLevel(logging.WARNING)
    parser = _parser()
    args = parser.parse_args(arguments)
    if flags and args.command != "run":
        parser.error(f"{args.command} passes nothing on: drop what follows --")
    require("optuna", "matplotlib")
    args.action(args, flags)
