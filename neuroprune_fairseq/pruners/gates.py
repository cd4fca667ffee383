"""One gate per attention head, without a change to any module or state dict.

A head's gate scales what the head hands to ``out_proj``, which equals scaling its attention
probabilities. A forward pre-hook on ``out_proj`` does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.pruning import zero_heads_
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import attention_blocks


class _Values:
    """The gates of all heads as the hooks read them; fp32 on the model's device."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.device = device
        self.training = torch.ones(heads, device=device, requires_grad=True)
        self.evaluation = torch.ones(heads, device=device)


class _ScaleHeads:
    """The hook of one module: multiplies the heads' outputs by their gates."""

    def __init__(self, values: _Values, heads: slice) -> None:
        self._values = values
        self._heads = heads

    def __call__(self, out_proj: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = self._values.training if out_proj.training else self._values.evaluation
        gates = values[self._heads].unsqueeze(-1)  # (heads, 1)
        heads = inputs[0].unflatten(-1, (len(gates), -1))  # (..., heads, head_dim)
        # fp32 gates keep their gradient, a sum over all tokens, in fp32 under fp16, too.
        scaled = (heads * gates).flatten(-2).to(inputs[0].dtype)
        return (scaled, *inputs[1:])

    def __deepcopy__(self, memo: dict[int, Any]) -> _ScaleHeads:
        return self  # a copy of the model (EMA) has the same gates


class HeadGates:
    """Gates on all heads of a model, in forward order, until :meth:`remove`.

    Example::

        gates = HeadGates(model)            # all 1: nothing changes
        gates.use(values)                   # (heads_total,), for the next training batch
        loss(model(batch)).backward()
        gates.take_gradient()               # d loss / d gate, (heads_total,)
        gates.evaluate_with(hard_values)    # while the model is in evaluation mode

    In training a gate is a leaf of the graph of its own, so its gradient is there after the
    backward pass whatever wraps the model, and no optimizer or state dict knows of it.

    Note:
        fairseq's attention has a fast path in training that reads out_proj's weight and
        never calls the module; ``skip_embed_dim_check`` is its own switch for leaving it.
    """

    def __init__(self, model: nn.Module) -> None:
        blocks = attention_blocks(model)
        self.heads_per_module = [block.num_heads for block in blocks]
        self._values = _Values(sum(self.heads_per_module), blocks[0].out_proj.weight.device)
        self._attached = []
        start = 0
        for block in blocks:
            hook = _ScaleHeads(self._values, slice(start, start + block.num_heads))
            handle = block.out_proj.register_forward_pre_hook(hook)
            self._attached.append((handle, block.module, block.module.skip_embed_dim_check))
            block.module.skip_embed_dim_check = True
            start += block.num_heads

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._values.device

    def use(self, values: Tensor) -> None:
        """Set the gates of the next training batches.

        Args:
            values: (heads_total,), any float type and device.
        """
        leaf = values.detach().to(self.device, torch.float32, copy=True)
        self._values.training = leaf.requires_grad_()

    def evaluate_with(self, values: Tensor) -> None:
        """Set the gates of the model in evaluation mode.

        Args:
            values: (heads_total,), any float type and device.
        """
        self._values.evaluation = values.detach().to(self.device, torch.float32)

    def take_gradient(self) -> Tensor:
        """The gradient that reached the training gates since the last call.

        Returns:
            (heads_total,), fp64, on the CPU; 0 where no gradient arrived.
        """
        leaf = self._values.training
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        leaf.grad = None
        return gradient.double().cpu()

    def remove(self) -> None:
        """Take the hooks away and put the fast path back."""
        for handle, module, skip_embed_dim_check in self._attached:
            handle.remove()
            module.skip_embed_dim_check = skip_embed_dim_check
        self._attached = []


@torch.no_grad()
def fold_(model: nn.Module, values: Tensor) -> None:
    """Make gates part of the weights, in place: the ungated model then computes the same.

    A head whose gate is 0 becomes all zero, the out_proj columns of any other are scaled.

    Args:
        model: a fairseq model, wrapped or not.
        values: (heads_total,), in forward order.
    """
    blocks = attention_blocks(model)
    for block, gates in zip(blocks, values.split([block.num_heads for block in blocks])):
        columns = block.head_columns()  # (embed_dim, heads, head_dim)
        columns.mul_(gates.to(columns).unsqueeze(-1))
        zero_heads_(block, gates.eq(0).nonzero().flatten().to(columns.device))


@torch.no_grad()
def living_heads(model: nn.Module) -> Tensor:
    """Which heads contribute to the output.

    Returns:
        (heads_total,), bool, on the CPU, in forward order.
    """
    masks = [head_mask(block).cpu() for block in attention_blocks(model)]
    return torch.cat(masks) if masks else torch.zeros(0, dtype=torch.bool)
