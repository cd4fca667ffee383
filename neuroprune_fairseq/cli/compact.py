"""``neuroprune-compact IN OUT``: write a smaller checkpoint with the same output."""

from __future__ import annotations

import argparse
import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune_fairseq.cli.compact_report import format_table
from neuroprune_fairseq.compact.check import check_equal
from neuroprune_fairseq.compact.cutting import Plan, compact, make_plan, shapes
from neuroprune_fairseq.compact.files import (
    check_settings,
    compact_state,
    is_half_precision,
    model_of,
    settings_of,
    stand_in_dictionaries,
)
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.checkpoint import read_checkpoint, save_data
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing
from neuroprune_fairseq.method.pruning import zero_small_weights_

# Largest relative difference of logits: rounding in fp32, and in half precision where the
# folded biases are stored.
LIMIT, HALF_LIMIT = 1e-5, 2e-3


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="neuroprune-compact",
        description="Cut pruned heads and neurons out of a fairseq checkpoint. The result is "
        "checked against the original before it gets its name, and loads wherever fairseq is "
        "given --user-dir; training goes on from it with --arch neuroprune_compact "
        "--restore-file OUT.",
    )
    parser.add_argument("input", metavar="IN", help="checkpoint of a transformer")
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


def _check(written: Path, state: dict[str, Any], before: nn.Module) -> None:
    """Load what was written and compare it with the model it was cut from."""
    dictionaries = stand_in_dictionaries(state)
    limit = HALF_LIMIT if is_half_precision(state) else LIMIT
    after = model_of(read_checkpoint(written), str(written))
    if is_half_precision(state):
        # Rounded biases may turn the order of two translations: compare the exact cut.
        difference = check_equal(before, compact(before), *dictionaries, LIMIT)
        difference = difference or check_equal(before, after, *dictionaries, limit, beam=False)
    else:
        difference = check_equal(before, after, *dictionaries, limit)
    if difference:
        refuse(f"the compact model does not match: {difference}; nothing was written")


def _write_checked(
    state: dict[str, Any], old: dict[str, Any], before: nn.Module, out: Path
) -> None:
    unwritable = f"OUT {out} cannot be written; make room or name another file"
    with refusing(unwritable, OSError), replacing(out) as temporary:
        with refusing(unwritable, RuntimeError):  # a full disk, in torch's words
            save_data(state, temporary)
        _check(temporary, old, before)


def _cut_state(
    state: dict[str, Any], before: nn.Module, plan: Plan, arguments: argparse.Namespace
) -> tuple[dict[str, Any], nn.Module]:
    after = compact(before, plan)
    try:
        return compact_state(state, before, after, plan, arguments.keep_optimizer), after
    except ValueError as error:
        refuse(
            f"--keep-optimizer: the optimizer's state of {arguments.input} cannot be cut: {error}"
        )


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
    state = read_checkpoint(arguments.input)
    check_settings(settings_of(state, arguments.input), arguments.input)
    original = model_of(state, arguments.input)
    before = copy.deepcopy(original)
    zero_small_weights_(before, arguments.tolerance)
    new_state, after = _cut_state(state, before, make_plan(before), arguments)
    _write_checked(new_state, state, before, out)
    print(format_table(original, after))
    if shapes(after) == shapes(original):
        print(f"nothing to do: no head and no neuron of {arguments.input} is zero")
    if state.get("last_optimizer_state") and not arguments.keep_optimizer:
        print("optimizer state left out (--keep-optimizer keeps it)")
    size = [os.path.getsize(path) for path in (arguments.input, out)]
    print(f"{out}: {size[1]:,} bytes (was {size[0]:,}); loads with --user-dir")
