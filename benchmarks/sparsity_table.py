"""BLEU against sparsity: methods that cannot be asked for a sparsity beside those that can.

For every sparsity of a grid and every method one model is chosen by validation BLEU and scored on
the test set:

- Models of ``--cut`` (l1, NeuroPrune's subgradient) are cut after training: weights of all layers
  below one threshold become zero, the threshold that gives just this sparsity. Candidates are the
  few models whose own sparsity (|w| < 1e-3) is nearest.
- Models of ``--exact`` (targets) are taken as they are, if their zeros are within half a percent.

    python benchmarks/sparsity_table.py --data data-bin/multi30k --output results/sparsity.jsonl \
      --cut neuroprune RUNS/np-*/checkpoint_last.pt --cut l1 RUNS/l1-*/checkpoint_last.pt \
      --exact neuroprune-target RUNS/target-s*/checkpoint_last.pt

Every evaluation is a line of the output; the same command again goes on where it stopped. At its
end it prints a table and draws the output's picture, PNG and SVG.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroprune_experiments.evaluation import GenerationSettings, evaluate
from neuroprune_experiments.figures import COLOURS, plt, save_figure
from neuroprune_experiments.frontier.figures import STYLES
from neuroprune_experiments.records import check_results, markdown, read_evaluations
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.files.results import append_line
from neuroprune_fairseq.method.sparsity import full_sizes, measure
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks, prunable_weights

SPARSITIES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
NEGLIGIBLE, CLOSE, CANDIDATES = 1e-3, 0.005, 3

Record = dict[str, Any]


@torch.no_grad()
def threshold_for(model: nn.Module, sparsity: float) -> float:
    """The magnitude below which a share of the model's prunable weights lies.

    Args:
        model: a fairseq model.
        sparsity: in (0, 1); below the share of its exact zeros the threshold is 0.
    """
    weights = prunable_weights([*attention_blocks(model), *mlp_blocks(model)])
    magnitudes = torch.cat([weight.flatten() for weight in weights]).abs()
    total = full_sizes(model)["total"]
    below = round(sparsity * total) - (total - len(magnitudes))
    return float(magnitudes.kthvalue(below + 1).values) if below > 0 else 0.0


def wanted(arguments: argparse.Namespace) -> list[Record]:
    """What is to be evaluated on the validation set: method, checkpoint, sparsity, tolerance."""
    found = []
    for exact, groups in ((False, arguments.cut), (True, arguments.exact)):
        for method, *checkpoints in groups:
            models = {path: load_model(path) for path in checkpoints}
            own = {
                path: measure(model, 0 if exact else NEGLIGIBLE)["total_sparsity"]
                for path, model in models.items()
            }
            for sparsity in arguments.sparsities:
                nearest = sorted(own, key=lambda path: abs(own[path] - sparsity))
                if exact:
                    chosen = [path for path in nearest if abs(own[path] - sparsity) <= CLOSE]
                else:
                    chosen = nearest[:CANDIDATES]
                for path in chosen:
                    tolerance = 0.0 if exact else threshold_for(models[path], sparsity)
                    keys = {"method": method, "checkpoint": path, "asked_sparsity": sparsity}
                    found.append({**keys, "tolerance": tolerance})
    return found


def scored(
    arguments: argparse.Namespace, done: Sequence[Record], setting: Record, subset: str
) -> Record:
    """One evaluation, of those that are done or made now and added to the output."""
    key = {**setting, "subset": subset}
    for record in done:
        if all(record.get(name) == value for name, value in key.items()):
            return record
    settings = GenerationSettings(subset=subset)
    [result] = evaluate(setting["checkpoint"], arguments.data, [settings], setting["tolerance"])
    record = {"label": Path(setting["checkpoint"]).parent.name, **result, **key}
    append_line(arguments.output, record)
    return record


def best_models(arguments: argparse.Namespace) -> list[Record]:
    """The test lines of the models that are best on the validation set."""
    output = arguments.output
    check_results(output)
    done = read_evaluations(output) if output.exists() and output.stat().st_size else []
    groups: dict[tuple[str, float], list[Record]] = {}
    for setting in wanted(arguments):
        record = scored(arguments, done, setting, "valid")
        groups.setdefault((setting["method"], setting["asked_sparsity"]), []).append(record)
    names = ("method", "checkpoint", "asked_sparsity", "tolerance")
    chosen = []
    for group in groups.values():
        best = max(group, key=lambda record: record["bleu"])
        test = scored(arguments, done, {name: best[name] for name in names}, "test")
        chosen.append({**test, "valid_bleu": best["bleu"]})
    return chosen


def print_table(records: Sequence[Record]) -> None:
    """One row a model, in Markdown."""
    rows = [["method", "sparsity", "model", "heads kept", "BLEU valid", "BLEU test"]]
    text = "{method}\n{total_sparsity:.3f}\n{label}\n{heads_kept}\n{valid_bleu:.2f}\n{bleu:.2f}"
    print(markdown(rows + [text.format(**record).split("\n") for record in records]))


def draw(records: Sequence[Record], stem: Path) -> None:
    """Test BLEU against sparsity, a line for each method."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for colour, method in zip(COLOURS, dict.fromkeys(record["method"] for record in records)):
        own = [record for record in records if record["method"] == method]
        marker, line = STYLES.get(method, ("o", "-"))
        axes.plot(
            [record["total_sparsity"] for record in own],
            [record["bleu"] for record in own],
            **{"color": colour, "marker": marker, "linestyle": line, "label": method},
        )
    axes.set_xlabel("share of zeros among the q, k, v, fc1, fc2 weights")
    axes.set_ylabel("BLEU (test)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    save_figure(figure, stem)


def main() -> None:
    """Evaluate, then show."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared corpus")
    parser.add_argument("--output", type=Path, required=True, help="JSON Lines, added to")
    paths = {"nargs": "+", "action": "append", "default": [], "metavar": ("METHOD", "CHECKPOINT")}
    parser.add_argument("--cut", help="models that are cut to the sparsity after training", **paths)
    parser.add_argument("--exact", help="models that have it", **paths)
    parser.add_argument("--sparsities", type=float, nargs="+", default=list(SPARSITIES))
    arguments = parser.parse_args()
    for sparsity in arguments.sparsities:
        if not 0 < sparsity < 1:
            refuse(f"--sparsities {sparsity} must be a share in (0, 1), such as 0.8")
    if any(len(group) < 2 for group in (*arguments.cut, *arguments.exact)):
        refuse("--cut and --exact take a method and then its checkpoints")
    logging.getLogger().setLevel(logging.WARNING)  # fairseq's import makes it talk
    records = best_models(arguments)
    print_table(records)
    draw(records, arguments.output.with_suffix(""))


if __name__ == "__main__":
    main()
