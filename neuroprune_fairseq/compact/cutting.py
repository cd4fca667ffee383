"""Cutting heads and hidden neurons that contribute nothing, or only a constant, to a model.

What is kept is described by a plan: a dictionary from a block's name ("encoder.layers.0.self_attn"
for heads, "encoder.layers.0" for hidden neurons) to the indices that stay. The same cut of a plan
serves a model's weights and an optimizer's moments.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuroprune_fairseq.sparsity import head_mask
from neuroprune_fairseq.structure import AttentionBlock, MLPBlock, attention_blocks, mlp_blocks

Plan = dict[str, Tensor]


class ConstantAttention(nn.Module):
    """What is left of a MultiheadAttention without heads: the bias of its out_proj.

    It has no projections, so ``structure.attention_blocks`` does not list it: nothing in
    it can be penalised or pruned any more. No incremental state is needed either.
    """

    def __init__(self, bias: Tensor, requires_grad: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        need_head_weights: bool = False,
        **ignored: object,
    ) -> tuple[Tensor, Tensor | None]:
        """The bias at every position; even attention weights where a caller wants weights.

        Args:
            query: (tgt_len, batch, embed_dim).
            key: (src_len, batch, key_dim).
            value: as key.
            key_padding_mask: (batch, src_len), True = padding.
            need_weights: return attention weights.
            need_head_weights: return them with a leading dimension of heads.
            ignored: what else MultiheadAttention takes.

        Returns:
            (tgt_len, batch, embed_dim), and (batch, tgt_len, src_len) or None.
        """
        weights = None
        if need_weights or need_head_weights:
            real = query.new_ones(key.shape[1], key.shape[0])
            if key_padding_mask is not None:
                real = real.masked_fill(key_padding_mask.bool(), 0.0)
            even = real / real.sum(dim=1, keepdim=True)
            weights = even.unsqueeze(1).expand(-1, query.shape[0], -1)
            weights = weights.unsqueeze(0) if need_head_weights else weights
        return self.bias.expand_as(query), weights

    def _get_input_buffer(self, incremental_state: object) -> dict[str, Tensor]:
        """Asked for by fairseq's decoder layer: there is nothing to remember."""
        return {}


def _heads_to_keep(block: AttentionBlock) -> Tensor:
    """Heads whose output depends on the input: read by out_proj, with a v weight.

    A head with only a v bias gives the same to every position (attention sums to 1).
    """
    varies = block.head_rows(block.v_proj.weight).ne(0).any(dim=1)
    return (head_mask(block) & varies).nonzero().flatten()


def _neurons_to_keep(block: MLPBlock) -> Tensor:
    """Hidden neurons with a fc1 row and a fc2 column; the first where none has both."""
    keep = block.fc1.weight.ne(0).any(dim=1) & block.fc2.weight.ne(0).any(dim=0)
    if not keep.any():
        keep[0] = True
    return keep.nonzero().flatten()


@torch.no_grad()
def make_plan(model: nn.Module) -> Plan:
    """What of a model must stay for its output to stay.

    Args:
        model: a fairseq Transformer, not wrapped.

    Returns:
        For every block the indices, ascending, of the heads or hidden neurons to keep.
    """
    plan = {block.name: _heads_to_keep(block) for block in attention_blocks(model)}
    plan.update((block.name, _neurons_to_keep(block)) for block in mlp_blocks(model))
    return plan


def _others(kept: Tensor, total: int) -> Tensor:
    mask = torch.ones(total, dtype=torch.bool, device=kept.device)
    mask[kept] = False
    return mask.nonzero().flatten()


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
    for block in mlp_blocks(model):
        cut = _others(plan[block.name], block.fc1.out_features)
        activation = model.get_submodule(block.name).activation_fn
        block.fc2.bias += block.fc2.weight[:, cut] @ activation(block.fc1.bias[cut])


def _select_outputs_(linear: nn.Linear, kept: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.data[kept], linear.weight.requires_grad)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.data[kept], linear.bias.requires_grad)
    linear.out_features = len(kept)


def _select_inputs_(linear: nn.Linear, kept: Tensor) -> None:
    weight = linear.weight.data[:, kept].contiguous()
    linear.weight = nn.Parameter(weight, linear.weight.requires_grad)
    linear.in_features = len(kept)


def _keep_heads_(model: nn.Module, block: AttentionBlock, heads: Tensor) -> None:
    """Cut all heads but these out of a module; replace the module when none is left."""
    if len(heads) == block.num_heads:
        return
    if not len(heads):
        parent, _, name = block.name.rpartition(".")
        bias = block.out_proj.bias
        constant = ConstantAttention(bias.data, bias.requires_grad)
        setattr(model.get_submodule(parent), name, constant.train(block.module.training))
        return
    rows = torch.arange(block.num_heads * block.head_dim, device=heads.device)
    rows = block.head_rows(rows)[heads].flatten()
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        _select_outputs_(projection, rows)
    _select_inputs_(block.out_proj, rows)
    # What fairseq's module needs to run narrower than its layer; scaling stays.
    block.module.num_heads = len(heads)
    block.module.embed_dim = len(rows)
    block.module.skip_embed_dim_check = True


def cut_(model: nn.Module, plan: Plan) -> None:
    """Cut everything that is not in the plan out of a model, in place."""
    for block in attention_blocks(model):
        _keep_heads_(model, block, plan[block.name])
    for block in mlp_blocks(model):
        if len(plan[block.name]) < block.fc1.out_features:
            _select_outputs_(block.fc1, plan[block.name])
            _select_inputs_(block.fc2, plan[block.name])


def compact(model: nn.Module, plan: Plan | None = None) -> nn.Module:
    """Return a smaller model with the same output; the given model stays as it is.

    Heads that contribute nothing or a constant are cut out of q, k, v and out_proj, hidden
    neurons out of fc1 and fc2; constants go into the biases of out_proj and fc2. A module
    keeps as few as no heads (it then is a constant), an MLP at least one neuron.

    Args:
        model: a fairseq Transformer, not wrapped.
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
        Number by name: "encoder.layers.0.self_attn" has heads (0 where the module is a
        constant), "encoder.layers.0" hidden neurons.
    """
    sizes = {block.name: block.num_heads for block in attention_blocks(model)}
    sizes.update((block.name, block.fc1.out_features) for block in mlp_blocks(model))
    modules = list(model.named_modules())
    sizes.update((name, 0) for name, module in modules if isinstance(module, ConstantAttention))
    return {name: sizes[name] for name, _ in modules if name in sizes}


def reshape_(model: nn.Module, sizes: Mapping[str, int]) -> None:
    """Cut a freshly built model down to the sizes of a compact one, in place.

    Args:
        model: with all heads and neurons; its weights are of no interest.
        sizes: as :func:`shapes` returns them, a block that is not named stays whole.

    Raises:
        ValueError: a name or a number that the model cannot have.
    """
    whole = shapes(model)
    for name, size in sizes.items():
        if name not in whole:
            raise ValueError(f"the model has no {name}")
        smallest = 0 if name.endswith("attn") else 1
        if not isinstance(size, int) or not smallest <= size <= whole[name]:
            raise ValueError(f"{name} cannot have {size!r} of {whole[name]} heads or neurons")
    cut_(model, {name: torch.arange(sizes.get(name, size)) for name, size in whole.items()})
