"""The in-place edits: Algorithm 2 of the paper, idle neurons, whole layers.

A head or neuron is pruned when everything that belongs to it is zero, biases included. Its
gradient is then exactly zero, too, and it is held there (see zero_mask): cutting it out of the
model (see compact and --shrink) changes nothing that training does from then on. A layer is
pruned when all its heads and neurons are, and what else it adds to the residual path: the biases
of out_proj and fc2. Their gradient is not zero, so they need the hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.redundancy import find_dominators, head_distances
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import (
    AttentionBlock,
    LayerBlock,
    MLPBlock,
    attention_blocks,
    layer_blocks,
    mlp_blocks,
    prunable_weights,
)

MERGES = ("out_proj", "fc1", "none")


@torch.no_grad()
def zero_heads_(attention: AttentionBlock, heads: Tensor) -> None:
    """Zero heads in place: their q, k, v rows (weights, biases) and out_proj columns.

    Args:
        attention: one attention block.
        heads: (n,) long, which heads.
    """
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        attention.head_rows(projection.weight).index_fill_(0, heads, 0.0)
        if projection.bias is not None:
            attention.head_rows(projection.bias).index_fill_(0, heads, 0.0)
    attention.head_columns().index_fill_(1, heads, 0.0)


@torch.no_grad()
def pruned_heads(attention: AttentionBlock) -> Tensor:
    """The heads that are zero everywhere, as :func:`zero_heads_` leaves them.

    Returns:
        (n,) long, ascending.
    """
    used = attention.head_columns().ne(0).any(dim=2).any(dim=0)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        for tensor in (projection.weight, projection.bias):
            if tensor is not None:
                used |= attention.head_rows(tensor).ne(0).any(dim=1)
    return (~used).nonzero().flatten()


@torch.no_grad()
def zero_neurons_(mlp: MLPBlock, neurons: Tensor) -> None:
    """Zero hidden neurons in place: their fc1 rows and biases and their fc2 columns.

    Args:
        mlp: one MLP block.
        neurons: (n,) long, which neurons.
    """
    mlp.fc1.weight.index_fill_(0, neurons, 0.0)
    if mlp.fc1.bias is not None:
        mlp.fc1.bias.index_fill_(0, neurons, 0.0)
    mlp.fc2.weight.index_fill_(1, neurons, 0.0)


@torch.no_grad()
def pruned_neurons(mlp: MLPBlock) -> Tensor:
    """The hidden neurons that are zero everywhere, as :func:`zero_neurons_` leaves them.

    Returns:
        (n,) long, ascending.
    """
    used = mlp.fc1.weight.ne(0).any(dim=1) | mlp.fc2.weight.ne(0).any(dim=0)
    if mlp.fc1.bias is not None:
        used |= mlp.fc1.bias.ne(0)
    return (~used).nonzero().flatten()


def idle_neurons(mlp: MLPBlock) -> Tensor:
    """Hidden neurons that have lost all weights on one side: they put out nothing or a constant.

    Returns:
        (n,) long, ascending; those that are pruned are among them.
    """
    idle = mlp.fc1.weight.eq(0).all(dim=1) | mlp.fc2.weight.eq(0).all(dim=0)
    return idle.nonzero().flatten()


@torch.no_grad()
def fold_neurons_(mlp: MLPBlock, neurons: Tensor) -> None:
    """Add what idle neurons always put out, activation(fc1 bias), to fc2's bias, in place.

    Args:
        mlp: one MLP block with biases.
        neurons: (n,) long, which of its idle neurons.
    """
    assert mlp.activation is not None
    constants = mlp.activation(mlp.fc1.bias[neurons])
    mlp.fc2.bias += mlp.fc2.weight[:, neurons] @ constants


def prune_idle_neurons_(model: nn.Module) -> None:
    """Zero every idle neuron in place; the model's output stays.

    Args:
        model: a fairseq model, wrapped or not. MLPs whose layer does not tell its activation
            (lightconv's) are left alone: what their neurons put out is not known here.

    Note:
        The paper removes heads only. A neuron without inputs or without readers would go on
        training a constant, or nothing; its last weights are the cheapest zeros there are.
    """
    for mlp in mlp_blocks(model):
        if mlp.activation is None:
            continue
        neurons = idle_neurons(mlp)
        fold_neurons_(mlp, neurons)
        zero_neurons_(mlp, neurons)


@torch.no_grad()
def zero_layers_(model: nn.Module, names: Iterable[str]) -> None:
    """Zero in place everything that the sublayers of layers add to the residual path.

    All heads, all hidden neurons and the biases of out_proj and fc2 go; layer norms stay, which in
    a pre-norm model nothing reads any more.

    Args:
        model: a fairseq model, wrapped or not.
        names: of layers, as "encoder.layers.3".

    Raises:
        ValueError: one is no layer that can go as a whole (structure.layer_blocks); nothing is
            zeroed then.
    """
    layers = {layer.name: layer for layer in layer_blocks(model)}
    wanted = list(names)
    if unknown := [name for name in wanted if name not in layers]:
        raise ValueError(f"{unknown[0]} is no layer that can go as a whole")
    for layer in (layers[name] for name in wanted):
        device = layer.mlp.fc1.weight.device
        for block in layer.attention:
            if isinstance(block, AttentionBlock):
                zero_heads_(block, torch.arange(block.num_heads, device=device))
        zero_neurons_(layer.mlp, torch.arange(layer.mlp.fc1.out_features, device=device))
        for bias in layer.output_biases:
            bias.zero_()


@torch.no_grad()
def _is_pruned(layer: LayerBlock) -> bool:
    if any(bias.any() for bias in layer.output_biases):  # where most layers are found not to be
        return False
    blocks = [block for block in layer.attention if isinstance(block, AttentionBlock)]
    heads_are = all(len(pruned_heads(block)) == block.num_heads for block in blocks)
    return heads_are and len(pruned_neurons(layer.mlp)) == layer.mlp.fc1.out_features


def pruned_layers(model: nn.Module) -> list[str]:
    """The layers that add nothing to the residual path, as :func:`zero_layers_` leaves them.

    Args:
        model: a fairseq model, wrapped or not. Of a compact one also layers whose attention is a
            constant of zero, and whose MLP has one neuron left, which is zero.

    Returns:
        Names as "encoder.layers.3", in forward order; layers that are cut out are not among them.
    """
    return [layer.name for layer in layer_blocks(model) if _is_pruned(layer)]


def _merge_(attention: AttentionBlock, merge: str, head: int, dominator: int) -> None:
    """Give what ``head`` did to its dominator, before it is zeroed."""
    if merge == "out_proj":
        columns = attention.head_columns()
        columns[:, dominator] += columns[:, head]
    elif merge == "fc1":
        assert attention.mlp is not None  # as was checked
        fc1 = attention.mlp.fc1.weight
        columns = fc1.view(fc1.shape[0], attention.num_heads, -1)
        columns[:, dominator] += columns[:, head]
        columns[:, head] = 0.0


def _check_arguments(model: nn.Module, threshold: float, merge: str) -> None:
    if not threshold >= 0:
        raise ValueError(f"threshold {threshold} is not a distance; it must be >= 0")
    if merge not in MERGES:
        raise ValueError(f"merge {merge!r} is none of {', '.join(MERGES)}")
    for block in attention_blocks(model) if merge == "fc1" else ():
        if block.mlp is None or block.mlp.fc1.in_features % block.num_heads:
            raise ValueError(f"merge 'fc1' needs an MLP of as many columns beside {block.name}")


@torch.no_grad()
def remove_heads_(attention: AttentionBlock, replaced: dict[int, int | None], merge: str) -> None:
    """Merge heads into those that replace them, then zero them, in place.

    Args:
        attention: one attention block.
        replaced: head -> the head that replaces it, None for a head that is just dropped.
        merge: as in :func:`eliminate_redundant_heads`.
    """
    for head, dominator in replaced.items():
        if dominator is not None:
            _merge_(attention, merge, head, dominator)
    device = attention.out_proj.weight.device
    zero_heads_(attention, torch.tensor(list(replaced), dtype=torch.long, device=device))


@torch.no_grad()
def _eliminate_in_(attention: AttentionBlock, threshold: float, merge: str) -> dict[str, Any]:
    """Algorithm 2 on one module; returns the record of what was done."""
    alive = head_mask(attention).nonzero().flatten()
    distances = head_distances(attention)[alive][:, alive]
    dominators = alive[find_dominators(distances <= threshold).to(alive.device)]
    redundant = dominators != alive
    replaced = dict(zip(alive[redundant].tolist(), dominators[redundant].tolist()))
    remove_heads_(attention, replaced, merge)
    off_diagonal = distances[~torch.eye(len(alive), dtype=torch.bool, device=alive.device)]
    return {
        "module": attention.name,
        "heads_kept": alive[~redundant].tolist(),
        "replaced": replaced,
        "smallest_distance": off_diagonal.min().item() if len(off_diagonal) else None,
    }


def eliminate_redundant_heads(
    model: nn.Module, threshold: float, merge: str = "out_proj"
) -> list[dict[str, Any]]:
    """ELIM_REDUNDANT, Algorithm 2, on every attention module, in place.

    Heads whose distance is at most ``threshold`` are similar; dominated ones (Algorithm 3)
    are merged into their dominator and zeroed. Only living heads take part, and every
    module keeps at least one of them.

    Args:
        model: a fairseq model, wrapped or not.
        threshold: theta, a distance >= 0.
        merge: what becomes of a redundant head i and its dominator j. "out_proj": i's
            out_proj columns are added to j's, which leaves the function unchanged when
            the two are equal. "fc1": the columns of the layer's fc1 that stand where the
            heads stand, the paper's L_in,H read literally. "none": i is dropped.

    Returns:
        One record per module, in forward order: ``module`` (its name), ``heads_kept``
        (indices), ``replaced`` (head -> its dominator) and ``smallest_distance`` of two
        living heads before the edit (None when fewer than two live).

    Raises:
        ValueError: a negative threshold, an unknown merge, or "fc1" without a fitting fc1.

    Note:
        Algorithm 2 leaves open whether W^O is merged; "out_proj" is our default since it
        is the one that keeps the model's output.
    """
    _check_arguments(model, threshold, merge)
    return [_eliminate_in_(block, threshold, merge) for block in attention_blocks(model)]


@torch.no_grad()
def zero_small_weights_(model: nn.Module, tolerance: float) -> None:
    """Zero every prunable weight with |w| < tolerance, in place.

    Args:
        model: a fairseq model, wrapped or not.
        tolerance: magnitude below which a weight goes, >= 0.
    """
    for weight in prunable_weights([*attention_blocks(model), *mlp_blocks(model)]):
        weight.masked_fill_(weight.abs() < tolerance, 0.0)
