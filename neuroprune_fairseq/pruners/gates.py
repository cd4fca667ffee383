"""One gate per head, and per hidden neuron, without a change to any module or state dict.

A head's gate scales what the head hands to ``out_proj``, which equals scaling its attention
probabilities; a neuron's scales what it hands to ``fc2``. Forward pre-hooks there do it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.pruning import pruned_neurons, zero_heads_, zero_neurons_
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


class _Values:
    """All gates as the hooks read them; fp32 on the model's device."""

    def __init__(self, number: int, device: torch.device) -> None:
        self.device = device
        self.training = torch.ones(number, device=device, requires_grad=True)
        self.evaluation = torch.ones(number, device=device)


class _Scale:
    """The hook of one module: multiplies what its heads or neurons put out by their gates."""

    def __init__(self, values: _Values, parts: slice) -> None:
        self._values = values
        self._parts = parts

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = self._values.training if module.training else self._values.evaluation
        gates = values[self._parts].unsqueeze(-1)  # (parts, 1)
        parts = inputs[0].unflatten(-1, (len(gates), -1))  # (..., heads, head_dim or neurons, 1)
        # fp32 gates keep their gradient, a sum over all tokens, in fp32 under fp16, too.
        scaled = (parts * gates).flatten(-2).to(inputs[0].dtype)
        return (scaled, *inputs[1:])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Scale:
        return self  # a copy of the model (EMA) has the same gates


class Gates:
    """Gates on all heads of a model, and on its neurons if asked for, until :meth:`remove`.

    Heads come first, both in forward order; there are n gates in all.

    Example::

        gates = Gates(model)                # all 1: nothing changes
        gates.use(values)                   # (n,), for the next training batch
        loss(model(batch)).backward()
        gates.take_gradient()               # d loss / d gate, (n,)
        gates.evaluate_with(hard_values)    # while the model is in evaluation mode

    In training a gate is a leaf of the graph of its own, so its gradient is there after the
    backward pass whatever wraps the model, and no optimizer or state dict knows of it.

    Note:
        fairseq's attention has a fast path in training that reads out_proj's weight and
        never calls the module; ``skip_embed_dim_check`` is its own switch for leaving it.
    """

    def __init__(self, model: nn.Module, neurons: bool = False) -> None:
        """Attach them.

        Args:
            model: a fairseq model.
            neurons: whether hidden neurons have gates, too.
        """
        blocks = attention_blocks(model)
        self.heads_per_module = [block.num_heads for block in blocks]
        outputs = [block.out_proj for block in blocks]
        outputs += [mlp.fc2 for mlp in mlp_blocks(model)] if neurons else []
        sizes = part_numbers(model, neurons)
        self._values = _Values(sum(sizes), outputs[0].weight.device)
        self._handles, start = [], 0
        for output, size in zip(outputs, sizes):
            hook = _Scale(self._values, slice(start, start + size))
            self._handles.append(output.register_forward_pre_hook(hook))
            start += size
        self._fast_paths = [(b.module, b.module.skip_embed_dim_check) for b in blocks]
        for module, _ in self._fast_paths:
            module.skip_embed_dim_check = True

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._values.device

    def use(self, values: Tensor) -> None:
        """Set the gates of the next training batches.

        Args:
            values: (n,), any float type and device.
        """
        leaf = values.detach().to(self.device, torch.float32, copy=True)
        self._values.training = leaf.requires_grad_()

    def evaluate_with(self, values: Tensor) -> None:
        """Set the gates of the model in evaluation mode.

        Args:
            values: (n,), any float type and device.
        """
        self._values.evaluation = values.detach().to(self.device, torch.float32)

    def take_gradient(self) -> Tensor:
        """The gradient that reached the training gates since the last call.

        Returns:
            (n,), fp64, on the CPU; 0 where no gradient arrived.
        """
        leaf = self._values.training
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        leaf.grad = None
        return gradient.double().cpu()

    def remove(self) -> None:
        """Take the hooks away and put the fast path back."""
        for handle in self._handles:
            handle.remove()
        for module, skip_embed_dim_check in self._fast_paths:
            module.skip_embed_dim_check = skip_embed_dim_check
        self._handles, self._fast_paths = [], []


def part_numbers(model: nn.Module, neurons: bool = False) -> list[int]:
    """How many heads each module has, then, if asked for, how many neurons each MLP."""
    heads = [block.num_heads for block in attention_blocks(model)]
    return heads + ([mlp.fc1.out_features for mlp in mlp_blocks(model)] if neurons else [])


@torch.no_grad()
def fold_(model: nn.Module, values: Tensor) -> None:
    """Make gates part of the weights, in place: the ungated model then computes the same.

    A part whose gate is 0 becomes all zero, the out_proj or fc2 columns of any other are scaled.

    Args:
        model: a fairseq model, wrapped or not.
        values: of its heads, or of its heads and neurons, (n,), in forward order.
    """
    blocks, heads = attention_blocks(model), sum(part_numbers(model))
    neurons = len(values) > heads
    gates = iter(values.split(part_numbers(model, neurons)))
    for block, of_heads in zip(blocks, gates):
        columns = block.head_columns()  # (embed_dim, heads, head_dim)
        columns.mul_(of_heads.to(columns).unsqueeze(-1))
        zero_heads_(block, of_heads.eq(0).nonzero().flatten().to(columns.device))
    for mlp, of_neurons in zip(mlp_blocks(model) if neurons else [], gates):
        mlp.fc2.weight.mul_(of_neurons.to(mlp.fc2.weight))
        zero_neurons_(mlp, of_neurons.eq(0).nonzero().flatten().to(mlp.fc2.weight.device))


@torch.no_grad()
def living_heads(model: nn.Module) -> Tensor:
    """Which heads contribute to the output.

    Returns:
        (heads_total,), bool, on the CPU, in forward order.
    """
    masks = [head_mask(block).cpu() for block in attention_blocks(model)]
    return torch.cat(masks) if masks else torch.zeros(0, dtype=torch.bool)


@torch.no_grad()
def living_neurons(model: nn.Module) -> Tensor:
    """Which hidden neurons are not pruned.

    Returns:
        (neurons_total,), bool, on the CPU, in forward order.
    """
    masks = []
    for mlp in mlp_blocks(model):
        alive = torch.ones(mlp.fc1.out_features, dtype=torch.bool, device="cpu")
        alive[pruned_neurons(mlp).cpu()] = False
        masks.append(alive)
    return torch.cat(masks) if masks else torch.zeros(0, dtype=torch.bool)
