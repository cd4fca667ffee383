"""``neuroprune-compact IN OUT``: write a smaller checkpoint with the same output."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune_fairseq.cli.compact_report import format_table
from neuroprune_fairseq.compact.check import Behaviour, behaviour, difference
from neuroprune_fairseq.compact.cutting import Plan, compact, cuts_something, make_plan
from neuroprune_fairseq.compact.state import (
    check_model,
    check_settings,
    compact_state,
    is_half_precision,
)
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.checkpoint import forget_weights_, read_checkpoint, save_data
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing
from neuroprune_fairseq.files.models import load_model, model_of, settings_of
from neuroprune_fairseq.method.pruning import zero_small_weights_

# Largest relative difference of logits: rounding in fp32, and in half precision where the
# folded biases are stored.
LIMIT, HALF_LIMIT = 1e-5, 2e-3


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="neuroprune-compact",
        description="Cut pruned heads and neurons out of a fairseq checkpoint. The result is "
        "checked against the original before it gets its name, and loads wherever fairseq is "
        "given --user-dir; training goes on from it with the original's --arch and "
        "--restore-file OUT.",
    )
    parser.add_argument(
        "input",
        metavar="IN",
        help="checkpoint of a Transformer: translation, BART, language model, RoBERTa ...",
    )
    parser.add_argument("output", metavar="OUT", help="compact checkpoint to write")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="first zero every q, k, v, fc1 and fc2 weight with |w| < T; this changes the "
        "model (default: 0, only what is exactly zero goes)",
    )
    parser.add_argument(
        "--keep-optimizer",
        action="store_true",
        help="keep the optimizer's state, cut like the weights (default: leave it out)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def _cut_state(
    state: dict[str, Any],
    before: nn.Module,
    after: nn.Module,
    plan: Plan,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    try:
        return compact_state(state, before, after, plan, arguments.keep_optimizer)
    except ValueError as error:
        refuse(
            f"--keep-optimizer: the optimizer's state of {arguments.input} cannot be cut: {error}"
        )


@dataclass
class _Cut:
    """What is written, and what is said of it. Models are gone: they are as large as the file."""

    state: dict[str, Any]
    expected: list[Behaviour]  # of the model before the cut
    limit: float  # of the difference of logits
    lines: list[str]


def _cut(arguments: argparse.Namespace) -> _Cut:
    """Read the original and cut it."""
    state = read_checkpoint(arguments.input)
    check_settings(settings_of(state, arguments.input), arguments.input)
    before = model_of(state, arguments.input)
    check_model(before, arguments.input)
    forget_weights_(state)
    zero_small_weights_(before, arguments.tolerance)
    plan, expected = make_plan(before), behaviour(before)
    after = compact(before, plan)
    limit = LIMIT
    if is_half_precision(state):
        # Rounded biases may turn the order of two translations: compare the exact cut.
        _refuse_difference(expected, behaviour(after), limit)
        expected, limit = [replace(one, translations=[]) for one in expected], HALF_LIMIT
    lines = [format_table(before, after)]
    if not cuts_something(plan, before):
        lines.append(f"nothing to do: no head and no neuron of {arguments.input} is zero")
    if state.get("last_optimizer_state") and not arguments.keep_optimizer:
        lines.append("optimizer state left out (--keep-optimizer keeps it)")
    return _Cut(_cut_state(state, before, after, plan, arguments), expected, limit, lines)


def _refuse_difference(expected: list[Behaviour], found: list[Behaviour], limit: float) -> None:
    if wrong := difference(expected, found, limit):
        refuse(f"the compact model does not match: {wrong}; nothing was written")


def _write_checked(cut: _Cut, out: Path) -> None:
    """Write the compact checkpoint, load it, and compare what it does with the original."""
    unwritable = f"OUT {out} cannot be written; make room or name another file"
    with refusing(unwritable, OSError), replacing(out) as temporary:
        with refusing(unwritable, RuntimeError):  # a full disk, in torch's words
            save_data(cut.state, temporary)
        cut.state.clear()
        searches = any(one.translations for one in cut.expected)
        found = behaviour(load_model(temporary), searches)
        _refuse_difference(cut.expected, found, cut.limit)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``neuroprune-compact``.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    out = Path(arguments.output)
    if not 0 <= arguments.tolerance < float("inf"):
        parser.error(f"--tolerance {arguments.tolerance} must be a finite number >= 0")
    if (out.exists() and not out.is_file()) or not out.parent.is_dir():
        parser.error(f"OUT {out}: must be a file in an existing folder")
    if out.exists() and not arguments.overwrite:
        parser.error(f"OUT {out} exists; --overwrite replaces it")
    # fairseq's encoder masks, nothing a user could change.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    cut = _cut(arguments)
    _write_checked(cut, out)
    print(*cut.lines, sep="\n")
    size = [os.path.getsize(path) for path in (arguments.input, out)]
    print(f"{out}: {size[1]:,} bytes (was {size[0]:,}); loads with --user-dir")
