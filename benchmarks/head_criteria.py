"""Which heads can a trained model spare? Criteria and merges side by side, without retraining.

From one checkpoint, heads are removed in one step to a number of heads of the whole model, by
each criterion and each way of merging; what is compared is the loss on the validation set,
teacher-forced (nats per token, no label smoothing). Nothing is trained, so this takes minutes:

    python benchmarks/head_criteria.py --data data-bin/multi30k \
      --checkpoint runs/m30k/pretrained/checkpoint_last.pt --output results/head-criteria.json

Criteria that compare two heads of a module remove the closest ones first (Algorithm 3 at the
smallest threshold that suffices), and leave one head in every module:
  l_inf        largest difference of the Q, K, V weights (the paper)
  relative     the same, relative to the weights' size (root mean square of both heads)
  functional   difference of Q K^T and V W^O, invariant to a rotation inside a head
  activation   1 - |cosine| of what the two heads add to the output, on calibration batches
Criteria that rank single heads, over the whole model:
  importance   squared derivative of the loss by a gate on the head, mean over batches
  norm         size of what the head adds to the output, relative to its module's output
  both         importance x distance (l_inf) to the nearest head, as --head-criterion both
  random       for scale; mean of three draws
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from torch import Tensor, nn
from tqdm import tqdm

from neuroprune_experiments.provenance import hardware
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.method.head_selection import Removal, by_importance, by_redundancy
from neuroprune_fairseq.method.importance import HeadImportance
from neuroprune_fairseq.method.pruning import remove_heads_
from neuroprune_fairseq.method.redundancy import head_distances
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import AttentionBlock, attention_blocks, concatenated_heads

MERGES = ("none", "out_proj", "least squares")
CALIBRATION_BATCHES, BATCH_SENTENCES, RIDGE = 8, 128, 1e-4


def load_batches(data: Path, checkpoint: Path, subset: str, count: int | None) -> list[Any]:
    """Collated batches of similar lengths, at most ``count``, evenly spread over the subset."""
    _, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(data)}
    )
    dataset = task.load_dataset(subset) or task.dataset(subset)
    order = sorted(range(len(dataset)), key=lambda i: dataset.sizes[i].max())
    chunks = [order[i : i + BATCH_SENTENCES] for i in range(0, len(order), BATCH_SENTENCES)]
    if count is not None and len(chunks) > count:
        chunks = [chunks[round(k * (len(chunks) - 1) / (count - 1))] for k in range(count)]
    return [dataset.collater([dataset[i] for i in chunk]) for chunk in chunks]


def loss_of(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    """Summed negative log-likelihood (nats) and number of target tokens."""
    logits = model(**batch["net_input"])[0]
    target = batch["target"]
    loss = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), ignore_index=1, reduction="sum"
    )
    return loss, int(target.ne(1).sum())


@torch.no_grad()
def validation_loss(model: nn.Module, batches: Sequence[Any]) -> float:
    """Mean over tokens."""
    losses, tokens = zip(*(loss_of(model, batch) for batch in batches))
    return float(sum(losses)) / sum(tokens)


class Calibration:
    """What the heads do on some training batches: their outputs' products, and gradients."""

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self.products: dict[str, Tensor] = {}  # X^T X of what enters out_proj, by module
        self.importance = HeadImportance(decay=0.0)
        blocks = attention_blocks(model)
        handles = []
        for block in blocks:
            block.module.skip_embed_dim_check = True  # leave the path that skips out_proj
            handles.append(block.out_proj.register_forward_pre_hook(self._collector(block.name)))
        squares = []
        # Gradients with the model in training mode but without dropout: gates need out_proj.
        for batch in tqdm(batches, desc="calibration", unit="batch"):
            model.zero_grad()
            loss_of(model, batch)[0].backward()
            self.importance.update(model)
            squares.append(self.importance.values)
        self.importance.values = torch.stack(squares).mean(dim=0)
        for handle in handles:
            handle.remove()
        model.zero_grad()

    def _collector(self, name: str) -> Callable:
        @torch.no_grad()
        def collect(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).double()
            self.products[name] = self.products.get(name, 0) + rows.T @ rows

        return collect

    def contributions(self, block: AttentionBlock) -> Tensor:
        """Inner products <Y_i, Y_j> of the heads' contributions, (heads, heads), fp64."""
        product = self.products[block.name]
        heads, size = block.num_heads, block.head_dim
        weight = block.out_proj.weight.detach().double()  # (embed, heads * size)
        gram = weight.T @ weight  # <w_a, w_b> over outputs
        return (product * gram).view(heads, size, heads, size).sum(dim=(1, 3))


def relative_distance(block: AttentionBlock) -> Tensor:
    """l_inf divided by the root mean square of both heads' weights."""
    heads = concatenated_heads(block)
    size = heads.square().mean(dim=1)
    return head_distances(block) / ((size[:, None] + size[None, :]) / 2).sqrt()


def _product_distance(left: Tensor, right: Tensor) -> Tensor:
    """Relative Frobenius distance of the products left_h^T right_h, (heads, heads)."""
    products = torch.einsum("hsi,hsj->hij", left, right).flatten(1)
    norms = products.norm(dim=1)
    return torch.cdist(products, products) / (norms[:, None] * norms[None, :]).sqrt()


@torch.no_grad()
def functional_distance(block: AttentionBlock) -> Tensor:
    """Mean of the relative distances of Q^T K and of W^O V, per head (embed, embed)."""
    q, k, v = (w.float().view(block.num_heads, block.head_dim, -1) for w in block.prunable_weights)
    out = block.head_columns().float().permute(1, 2, 0)  # (heads, head_dim, embed)
    return (_product_distance(q, k) + _product_distance(out, v)) / 2


def activation_distance(calibration: Calibration) -> Callable[[AttentionBlock], Tensor]:
    """1 - |cosine| of two heads' contributions."""

    def distance(block: AttentionBlock) -> Tensor:
        inner = calibration.contributions(block)
        norms = inner.diagonal().clamp(min=1e-30).sqrt()
        found = 1 - (inner / norms[:, None] / norms[None, :]).abs()
        return found.fill_diagonal_(0.0).clamp(min=0.0).float()

    return distance


def by_norm(model: nn.Module, surplus: int, calibration: Calibration) -> list[Removal]:
    """Smallest share of the module's output first."""
    ranked = []
    for module, block in enumerate(attention_blocks(model)):
        inner = calibration.contributions(block)
        shares = inner.diagonal() / inner.sum()
        ranked += [(float(shares[head]), (module, head, None)) for head in range(block.num_heads)]
    return [removal for _, removal in sorted(ranked)[:surplus]]


def by_chance(model: nn.Module, surplus: int, seed: int) -> list[Removal]:
    """Any heads."""
    blocks = attention_blocks(model)
    heads = [(m, h, None) for m, block in enumerate(blocks) for h in range(block.num_heads)]
    return random.Random(seed).sample(heads, surplus)


@torch.no_grad()
def refit_out_proj_(block: AttentionBlock, product: Tensor, weight: Tensor) -> None:
    """Least squares: the living heads' out_proj that comes closest to the old output.

    Minimises ||X_kept W'^T - X W^T||^2 + ridge, X the calibration inputs (tokens, embed).

    Args:
        block: after the removal.
        product: X^T X, fp64, of the heads before the removal.
        weight: out_proj's weight before the removal, (embed, heads * head_dim).
    """
    kept = head_mask(block).repeat_interleave(block.head_dim)
    gram = product[kept][:, kept]
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    fitted = torch.linalg.solve(gram, product[kept] @ weight.double().T)
    block.out_proj.weight[:, kept] = fitted.T.to(weight)


def removed_loss(
    model: nn.Module,
    removals: Sequence[Removal],
    merge: str,
    calibration: Calibration,
    batches: Sequence[Any],
) -> float:
    """Validation loss of a copy of the model without some heads."""
    model = copy.deepcopy(model)
    for index, block in enumerate(attention_blocks(model)):
        replaced = {head: by for module, head, by in removals if module == index}
        weight = block.out_proj.weight.detach().clone()
        remove_heads_(block, replaced, "none" if merge == "least squares" else merge)
        if replaced and merge == "least squares" and head_mask(block).any():
            refit_out_proj_(block, calibration.products[block.name], weight)
    return validation_loss(model, batches)


def main() -> None:
    """Command line, see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--heads", type=int, nargs="+", default=[90, 72, 54, 36])
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(1)
    model = load_model(args.checkpoint)
    valid = load_batches(args.data, args.checkpoint, "valid", None)
    train = load_batches(args.data, args.checkpoint, "train", CALIBRATION_BATCHES)
    calibration = Calibration(model, train)
    total = sum(block.num_heads for block in attention_blocks(model))
    importance = calibration.importance
    pairs = {
        "l_inf": head_distances,
        "relative": relative_distance,
        "functional": functional_distance,
        "activation": activation_distance(calibration),
    }
    criteria: dict[str, Callable[[int], list[list[Removal]]]] = {
        name: lambda surplus, distance=distance: [by_redundancy(model, surplus, distance)]
        for name, distance in pairs.items()
    }
    criteria |= {
        "importance": lambda surplus: [by_importance(model, surplus, importance, False)],
        "both": lambda surplus: [by_importance(model, surplus, importance, True)],
        "norm": lambda surplus: [by_norm(model, surplus, calibration)],
        "random": lambda surplus: [by_chance(model, surplus, seed) for seed in (1, 2, 3)],
    }
    rows = []
    dense = validation_loss(model, valid)
    print(f"dense: {dense:.4f}")
    for heads in args.heads:
        for name, choose in criteria.items():
            chosen = choose(total - heads)
            for merge in MERGES if name in pairs else ("none", "least squares"):
                losses = [removed_loss(model, r, merge, calibration, valid) for r in chosen]
                row = {"heads": heads, "criterion": name, "merge": merge}
                rows.append({**row, "valid_loss": round(sum(losses) / len(losses), 4)})
                print(*rows[-1].values(), flush=True)
    command = f"python benchmarks/head_criteria.py {shlex.join(sys.argv[1:])}"
    facts = {"command": command, "hardware": hardware(), "dense_loss": round(dense, 4)}
    with replacing(args.output) as temporary:
        temporary.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
