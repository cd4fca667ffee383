"""Does a table of costs predict how fast a model of another shape is?

Random shapes (heads evenly and unevenly placed, neurons, layers gone) and the dense model translate
in turns, as the table was measured; speed-ups are compared with what the table says. Example::

    python benchmarks/cost_check.py --table cost.json --checkpoint dense.pt \
        --data data-bin/multi30k --output results/cost-check-ctranslate2.json
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from neuroprune_experiments.provenance import git_commit, hardware
from neuroprune_fairseq.cli.profile import HOW, load_work
from neuroprune_fairseq.compact.cost_file import check_fits, read_cost_table
from neuroprune_fairseq.compact.cost_fit import Shapes, cut_to, take_turns
from neuroprune_fairseq.compact.cost_table import CostTable, LayerShape, layer_shapes
from neuroprune_fairseq.export.timing import timer_maker
from neuroprune_fairseq.files.atomic import replacing

LARGEST_ERROR = 0.1


def random_shape(whole: Shapes, even: bool, gone: bool, seed: int) -> Shapes:
    """Shapes of a model: as many heads in every module of a stack or not, some layers gone or not.

    Args:
        whole: of the dense model.
        even: whether a stack has one number of heads.
        gone: whether each stack loses layers, one at least and one less than all at most.
        seed: of the draw.
    """
    draw, found = random.Random(seed), []
    for stack in dict.fromkeys(shape.stack for shape in whole):
        layers = [shape for shape in whole if shape.stack == stack]
        if gone and len(layers) > 1:
            layers = draw.sample(layers, draw.randrange(1, len(layers)))
        most = max(max(shape.heads.values()) for shape in layers)
        same, share = draw.randint(1, most), draw.uniform(0.02, 1)
        for shape in layers:
            heads = {kind: same if even else draw.randint(1, n) for kind, n in shape.heads.items()}
            neurons = round(shape.neurons * min(1, share * draw.uniform(0.5, 1.5)))
            found.append(LayerShape(shape.name, heads, max(1, neurons)))
    order = {shape.name: place for place, shape in enumerate(whole)}
    return sorted(found, key=lambda shape: order[shape.name])


def draw_shapes(whole: Shapes, number: int) -> list[Shapes]:
    """So many random shapes, half of them even, half of them with layers gone."""
    return [random_shape(whole, i % 2 == 0, i % 4 > 1, seed=i) for i in range(number)]


def _row(shapes: Shapes, table: CostTable, whole: Shapes, times: np.ndarray) -> dict[str, Any]:
    """Of one shape; times are (rounds, 2): the dense model's and its own."""
    dense, own = times.min(axis=0)
    predicted, measured = table.cost(whole) / table.cost(shapes), dense / own
    return {
        "layers": {shape.name: {**shape.heads, "neurons": shape.neurons} for shape in shapes},
        "predicted_speedup": predicted,
        "measured_speedup": measured,
        "error": predicted / measured - 1,
        "ms_per_sentence": {
            name: {"shortest": float(t.min()), "median": float(np.median(t)), "longest": t.max()}
            for name, t in zip(("dense", "own"), times.T)
        },
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--table", required=True, help="what neuroprune-profile wrote")
    parser.add_argument("--checkpoint", required=True, help="the dense model that it measured")
    parser.add_argument("--data", required=True, help="prepared corpus")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("--shapes", type=int, default=16, help="how many")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each model")
    parser.add_argument("--sentences", type=int, help="default: as many as the table was made with")
    arguments = parser.parse_args()
    out = Path(arguments.output)
    if out.exists() and not arguments.overwrite:
        parser.error(f"--output {out} exists; --overwrite replaces it")
    if not out.parent.is_dir():
        parser.error(f"--output {out}: {out.parent} is no folder")
    return arguments


def main() -> None:
    """Time the shapes, write and print how far the table is right."""
    arguments = _parse()
    table = read_cost_table(arguments.table)
    how = {name: table.settings[name] for name in HOW}
    how["sentences"] = arguments.sentences or how["sentences"]
    model, work = load_work(arguments.checkpoint, arguments.data, how)
    check_fits(table, model)
    whole = layer_shapes(model)
    shapes = draw_shapes(whole, arguments.shapes)
    make_timer = timer_maker(how["engine"], work)
    times = take_turns(
        [make_timer(cut_to(model, each)) for each in [whole, *shapes]], arguments.rounds
    )
    rows = [_row(s, table, whole, times[:, [0, i]]) for i, s in enumerate(shapes, start=1)]
    errors = np.abs([row["error"] for row in rows])
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "hardware": hardware(),
        "git_commit": git_commit(),
        "settings": how,
        "table": {key: table.settings[key] for key in ("rounds", "sentences", "cpu", "spread")},
        "largest_error": errors.max(),
        "median_error": float(np.median(errors)),
        "spread": float(np.median(np.median(times, axis=0) / times.min(axis=0) - 1)),
        "within_a_tenth": int((errors <= LARGEST_ERROR).sum()),
        "shapes": rows,
    }
    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        predicted, measured = row["predicted_speedup"], row["measured_speedup"]
        print(f"predicted {predicted:.2f}, measured {measured:.2f}, off by {row['error']:+.1%}")
    print(f"{result['within_a_tenth']} of {len(rows)} shapes within {LARGEST_ERROR:.0%}")


if __name__ == "__main__":
    main()
