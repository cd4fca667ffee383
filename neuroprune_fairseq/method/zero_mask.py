"""Keeping at zero what is pruned, while training goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.pruning import pruned_heads, pruned_layers, pruned_neurons
from neuroprune_fairseq.structure import (
    AttentionBlock,
    MLPBlock,
    attention_blocks,
    layer_blocks,
    mlp_blocks,
    prunable_weights,
)


class ZeroMask:
    """Which entries of a model are held at zero against the optimizer's momentum.

    Zero is a fixed point of a pruned head's or neuron's gradient, but one step of Adam's momentum
    from before regrows it. Of a pruned layer the biases of out_proj and fc2 are held as well, which
    have a gradient. What is held is read off the weights, so there is no state to save: a
    resumed run holds the same.
    """

    def __init__(self, model: nn.Module, every_weight: bool = False) -> None:
        """Hold the zeros that are there now.

        Args:
            model: a fairseq model, wrapped or not.
            every_weight: hold every zero of the prunable weights, not only the heads and neurons
                that are pruned as a whole.
        """
        attention, mlps = attention_blocks(model), mlp_blocks(model)
        self._held: list[tuple[Tensor, Tensor]] = []  # entries, True = held, of a shape that fits
        for block in attention:
            self._hold_heads(block, pruned_heads(block))
        for mlp in mlps:
            self._hold_neurons(mlp, pruned_neurons(mlp))
        pruned = set(pruned_layers(model))
        for layer in layer_blocks(model) if pruned else ():
            for bias in layer.output_biases if layer.name in pruned else ():
                self._hold(bias, torch.ones_like(bias, dtype=torch.bool))
        for weight in prunable_weights([*attention, *mlps]) if every_weight else ():
            self._hold(weight, weight == 0)

    def _hold(self, tensor: Tensor | None, mask: Tensor) -> None:
        if tensor is not None and mask.any():
            self._held.append((tensor, mask))

    def _hold_heads(self, block: AttentionBlock, heads: Tensor) -> None:
        mask = torch.zeros(block.num_heads, dtype=torch.bool, device=heads.device)
        mask = mask.index_fill(0, heads, True).repeat_interleave(block.head_dim)
        for projection in (block.q_proj, block.k_proj, block.v_proj):
            self._hold(projection.weight, mask[:, None])
            self._hold(projection.bias, mask)
        self._hold(block.out_proj.weight, mask)

    def _hold_neurons(self, mlp: MLPBlock, neurons: Tensor) -> None:
        mask = torch.zeros(mlp.fc1.out_features, dtype=torch.bool, device=neurons.device)
        mask = mask.index_fill(0, neurons, True)
        self._hold(mlp.fc1.weight, mask[:, None])
        self._hold(mlp.fc1.bias, mask)
        self._hold(mlp.fc2.weight, mask)

    @torch.no_grad()
    def hold_(self) -> None:
        """Zero what is held in place, after every optimizer step."""
        for tensor, mask in self._held:
            tensor.masked_fill_(mask, 0.0)

    def __bool__(self) -> bool:
        return bool(self._held)
