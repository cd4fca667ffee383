"""Cutting heads, neurons and layers that contribute nothing, or only a constant, out of a model.

What is kept is described by a plan: a dictionary from a block's name to the indices that stay,
"encoder.layers.0.self_attn" for heads, "encoder.layers.0.self_attn.inputs" for the dimensions
that q, k and v read, "encoder.layers.0" for hidden neurons. A layer of which no neuron is kept
goes as a whole, with its layer norms; where layers stay, their MLPs keep at least one. The same cut
of a plan serves a model's weights and an optimizer's moments.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.modules import (
    ConstantAttention,
    SelectedLinear,
    removed_layer,
)
from neuroprune_fairseq.method.pruning import (
    fold_neurons_,
    idle_neurons,
    pruned_heads,
    pruned_layers,
    pruned_neurons,
)
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import (
    AttentionBlock,
    LayerBlock,
    MLPBlock,
    all_attention,
    attention_blocks,
    layer_blocks,
    mlp_blocks,
    removed_mlps,
)

Plan = dict[str, Tensor]

INPUTS = ".inputs"
# Picking dimensions out costs time too. q, k and v together, one CPU thread, 1 to 320 rows: at
# width 480 they are 1.0 to 1.3 times as fast with 3/4 of the dimensions, 1.3 to 1.9 times with
# 1/2; at width 96 only 0.7 to 1.1 and 0.7 to 1.5 times. So only wide models read fewer.
SMALLEST_WIDTH = 256
WORTHWHILE_SHARE = 0.75


def _others(indices: Tensor, total: int) -> Tensor:
    """The rest of range(total), ascending."""
    mask = torch.ones(total, dtype=torch.bool, device=indices.device)
    mask[indices] = False
    return mask.nonzero().flatten()


def _heads_to_keep(block: AttentionBlock) -> Tensor:
    """Heads whose output depends on the input: read by out_proj, with a v weight.

    A head with only a v bias gives the same to every position (attention sums to 1).
    """
    varies = block.head_rows(block.v_proj.weight).ne(0).any(dim=1)
    return (head_mask(block) & varies).nonzero().flatten()


def _inputs_to_keep(block: AttentionBlock, heads: Tensor) -> Tensor | None:
    """Input dimensions that q, k or v of these heads read; None where it does not pay.

    One set for all three, as in Eq. 2, so that a penalty still finds its groups.
    """
    weights = block.prunable_weights
    widths = {weight.shape[1] for weight in weights}
    if not len(heads) or len(widths) > 1 or min(widths) < SMALLEST_WIDTH:
        return None
    rows = [w.view(block.num_heads, block.head_dim, -1)[heads] for w in weights]
    read = torch.cat(rows).ne(0).any(dim=1).any(dim=0)
    return read.nonzero().flatten() if read.float().mean() <= WORTHWHILE_SHARE else None


def _at_least_one(neurons: Tensor) -> Tensor:
    """An MLP without any neuron would be no MLP: the first one stays."""
    return neurons if len(neurons) else neurons.new_zeros(1)


def _neurons_to_keep(block: MLPBlock) -> Tensor:
    """Hidden neurons with a fc1 row and a fc2 column; the first where none has both."""
    return _at_least_one(_others(idle_neurons(block), block.fc1.out_features))


def whole_plan(model: nn.Module) -> Plan:
    """The plan that keeps everything."""
    plan = {block.name: torch.arange(block.num_heads) for block in attention_blocks(model)}
    plan.update((mlp.name, torch.arange(mlp.fc1.out_features)) for mlp in mlp_blocks(model))
    return plan


def _leave_out_(plan: Plan, layers: list[LayerBlock]) -> None:
    """Keep nothing of these layers."""
    for layer in layers:
        for name in (block.name for block in [*layer.attention, layer.mlp] if block.name in plan):
            plan[name] = plan[name][:0]


def cuts_something(plan: Plan, model: nn.Module) -> bool:
    """Whether a plan keeps less than everything."""
    whole = whole_plan(model)
    return plan.keys() != whole.keys() or any(len(plan[name]) < len(whole[name]) for name in whole)


@torch.no_grad()
def make_plan(model: nn.Module) -> Plan:
    """What of a model must stay for its output to stay.

    Args:
        model: a fairseq model, not wrapped.

    Returns:
        For every block the indices, ascending, of the heads or hidden neurons to keep, and
        of the input dimensions of attention where that makes it faster. Pruned layers go as a
        whole where layer norms come before the sublayers. Where they come after, a layer that adds
        nothing still normalises: it stays, as constants.
    """
    plan = {block.name: _neurons_to_keep(block) for block in mlp_blocks(model)}
    for block in attention_blocks(model):
        heads = plan[block.name] = _heads_to_keep(block)
        inputs = _inputs_to_keep(block, heads)
        if inputs is not None:
            plan[block.name + INPUTS] = inputs
    pruned = set(pruned_layers(model))
    _leave_out_(plan, [b for b in layer_blocks(model) if b.name in pruned and b.is_pre_norm])
    return plan


def plan_of_pruned(model: nn.Module) -> Plan:
    """What of a model that trains on must stay: all but what is pruned, which is held at zero.

    :func:`make_plan` goes further: it looks at the output alone, and cuts heads and neurons
    that training might yet bring back. In one thing this goes further: pruned layers go as a whole
    wherever their layer norms stand. Where those come after the sublayers, the layers that are left
    then read something else than before, which they have to learn.

    Args:
        model: a fairseq model, not wrapped.
    """
    plan = {}
    for block in attention_blocks(model):
        plan[block.name] = _others(pruned_heads(block), block.num_heads)
    for mlp in mlp_blocks(model):
        plan[mlp.name] = _at_least_one(_others(pruned_neurons(mlp), mlp.fc1.out_features))
    pruned = set(pruned_layers(model))
    _leave_out_(plan, [layer for layer in layer_blocks(model) if layer.name in pruned])
    return plan


@torch.no_grad()
def fold_constants_(model: nn.Module, plan: Plan) -> None:
    """Move what the neurons and heads outside the plan always put out into biases, in place.

    A neuron without a fc1 row puts out activation(fc1 bias); a head without a v weight
    puts out its v bias, as its attention weights sum to 1.
    """
    for block in attention_blocks(model):
        cut = _others(plan[block.name], block.num_heads)
        if len(cut) and block.v_proj.bias is not None:
            values = block.head_rows(block.v_proj.bias)[cut].flatten()
            columns = block.head_columns()[:, cut].flatten(start_dim=1)
            block.out_proj.bias += columns @ values
    for mlp in mlp_blocks(model):
        fold_neurons_(mlp, _others(plan[mlp.name], mlp.fc1.out_features))


def _select_outputs_(linear: nn.Linear, kept: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.data[kept], linear.weight.requires_grad)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.data[kept], linear.bias.requires_grad)
    linear.out_features = len(kept)


def _select_inputs_(linear: nn.Linear, kept: Tensor) -> None:
    weight = linear.weight.data[:, kept].contiguous()
    linear.weight = nn.Parameter(weight, linear.weight.requires_grad)
    linear.in_features = len(kept)


def _constant(block: AttentionBlock) -> ConstantAttention:
    """What takes the place of a module without heads."""
    bias = block.out_proj.bias
    constant = ConstantAttention(bias.data, bias.requires_grad)
    constant.full_num_heads = block.full_num_heads
    constant.full_attention_size = block.full_size
    return constant.train(block.module.training)


def _keep_heads_(model: nn.Module, block: AttentionBlock, heads: Tensor) -> None:
    """Cut all heads but these out of a module; replace the module when none is left."""
    if len(heads) == block.num_heads:
        return
    if not len(heads):
        parent, _, name = block.name.rpartition(".")  # a shared layer has it under one name
        setattr(model.get_submodule(parent), name, _constant(block))
        return
    rows = torch.arange(block.num_heads * block.head_dim, device=heads.device)
    rows = block.head_rows(rows)[heads].flatten()
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        _select_outputs_(projection, rows)
    _select_inputs_(block.out_proj, rows)
    block.module.full_num_heads = block.full_num_heads
    # What fairseq's module needs to run narrower than its layer; scaling stays.
    block.module.num_heads = len(heads)
    block.module.embed_dim = len(rows)
    block.module.skip_embed_dim_check = True


def _keep_inputs_(block: AttentionBlock, kept: Tensor) -> None:
    """Let q, k and v of a module read only these of the dimensions that they read now."""
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(block.module, name, SelectedLinear(getattr(block.module, name), kept))
    # fairseq's module then calls its projections instead of reading their weights.
    block.module.skip_embed_dim_check = True


def _remove_layer_(model: nn.Module, layer: LayerBlock) -> None:
    """Put the residual path alone where a layer stands, under each of its names."""
    removed = removed_layer(layer)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is layer.module:
            parent, _, index = name.rpartition(".")
            setattr(model.get_submodule(parent), index, removed)


def cut_(model: nn.Module, plan: Plan) -> None:
    """Cut everything that is not in the plan out of a model, in place."""
    for layer in layer_blocks(model):
        if not len(plan[layer.name]):
            _remove_layer_(model, layer)
    for block in attention_blocks(model):
        _keep_heads_(model, block, plan[block.name])
        if block.name + INPUTS in plan and len(plan[block.name]):
            _keep_inputs_(block, plan[block.name + INPUTS])
    for mlp in mlp_blocks(model):
        if len(plan[mlp.name]) < mlp.fc1.out_features:
            mlp.fc2.full_in_features = mlp.full_ffn_embed_dim
            _select_outputs_(mlp.fc1, plan[mlp.name])
            _select_inputs_(mlp.fc2, plan[mlp.name])


def compact(model: nn.Module, plan: Plan | None = None) -> nn.Module:
    """Return a smaller model with the same output; the given model stays as it is.

    Heads that contribute nothing or a constant are cut out of q, k, v and out_proj, hidden
    neurons out of fc1 and fc2; constants go into the biases of out_proj and fc2. A module
    keeps as few as no heads (it then is a constant), an MLP at least one neuron. Input
    dimensions that no head reads are left out where enough of them are zero.

    Args:
        model: a fairseq model, not wrapped.
        plan: what to keep, as :func:`make_plan` finds it by default.

    Returns:
        A new model of the same class. Its output in evaluation is the same up to rounding;
        the attention weights it can return are averages over the heads that are left.
    """
    plan = make_plan(model) if plan is None else plan
    smaller = copy.deepcopy(model)
    fold_constants_(smaller, plan)
    cut_(smaller, plan)
    return smaller


def shapes(model: nn.Module) -> dict[str, int]:
    """How many heads and hidden neurons every block of a model has, in forward order.

    Returns:
        By name: "encoder.layers.0.self_attn" has a number of heads (0 where the module is a
        constant), "encoder.layers.0" of hidden neurons (0 where the layer is gone).
    """
    sizes = {mlp.name: 0 for mlp in removed_mlps(model)}
    sizes.update((block.name, block.fc1.out_features) for block in mlp_blocks(model))
    sizes.update((block.name, block.num_heads) for block in all_attention(model))
    place = {name: number for number, (name, _) in enumerate(model.named_modules())}
    # What was in a layer that is gone has no place but the layer's.
    places = {name: place.get(name, place.get(name.rpartition(".")[0], 0)) for name in sizes}
    return {name: sizes[name] for name in sorted(sizes, key=places.__getitem__)}
