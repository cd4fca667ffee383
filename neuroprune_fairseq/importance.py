"""How much heads and weights matter to the loss, from gradients that training computes anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune_fairseq.structure import (
    AttentionBlock,
    attention_blocks,
    mlp_blocks,
    prunable_weights,
)


@torch.no_grad()
def gate_gradients(attention: AttentionBlock) -> Tensor:
    """The derivative of the loss by a factor on each head's output, at factor 1.

    Head h reaches the rest of the model through its out_proj columns alone, so the
    derivative is the sum over them of W * dloss/dW.

    Args:
        attention: one attention block whose out_proj weight holds a gradient.

    Returns:
        (heads,), fp32; 0 without a gradient.
    """
    weight = attention.out_proj.weight
    if weight.grad is None:
        return weight.new_zeros(attention.num_heads, dtype=torch.float32)
    product = weight.float() * weight.grad.float()
    return product.view(-1, attention.num_heads, attention.head_dim).sum(dim=(0, 2))


class _SquaredGradients:
    """Running mean over updates of some squared gradients.

    Every update is divided by its mean, so that loss scaling and the size of a batch do
    not decide which updates count.
    """

    def __init__(self, decay: float = 0.98, values: Tensor | None = None) -> None:
        """Start empty, or from the ``values`` of a checkpoint.

        Args:
            decay: weight of the past at every update.
            values: (n,), fp32, >= 0.
        """
        self.decay = decay
        self.values = values

    @staticmethod
    def gradients(model: nn.Module) -> Tensor:
        """What is squared, from the gradients that the model holds now: (n,), fp32."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the gradients that the model holds now."""
        found = self.gradients(model).square()
        mean = found.mean()
        # Not finite: an overflow that the optimizer will skip. No host synchronisation here.
        found = torch.where(torch.isfinite(mean) & (mean > 0), found / mean, found.new_zeros(()))
        if self.values is None:
            self.values = found
        else:
            self.values = self.values.to(found.device).lerp_(found, 1.0 - self.decay)


class HeadImportance(_SquaredGradients):
    """Each head's squared gate gradient (Michel et al.'s proxy), heads in forward order."""

    @staticmethod
    def gradients(model: nn.Module) -> Tensor:
        return torch.cat([gate_gradients(block) for block in attention_blocks(model)])

    def of_modules(self, model: nn.Module) -> list[Tensor]:
        """The importance of every head, (heads,) per attention module in forward order."""
        sizes = [block.num_heads for block in attention_blocks(model)]
        if self.values is None:
            return [torch.zeros(size) for size in sizes]
        return list(self.values.split(sizes))


class WeightImportance(_SquaredGradients):
    """The squared gradient F of every prunable weight: the empirical Fisher information's diagonal.

    To second order the loss rises by w^2 F / 2 when a weight w is zeroed (Optimal Brain
    Damage, LeCun et al. 1989, with F in place of the Hessian's diagonal).
    """

    @staticmethod
    def gradients(model: nn.Module) -> Tensor:
        weights = _prunable_weights(model)
        found = (torch.zeros_like(w) if w.grad is None else w.grad for w in weights)
        return torch.cat([gradient.flatten().float() for gradient in found])

    @torch.no_grad()
    def scores(self, model: nn.Module) -> list[Tensor]:
        """w^2 F of every prunable weight: one fp32 tensor each, of its shape.

        Attention modules come first, then MLPs, each in forward order. Before the first
        update F is 1, so that magnitude decides.
        """
        squares = [weight.float().square() for weight in _prunable_weights(model)]
        if self.values is None:
            return squares
        fisher = self.values.to(squares[0].device).split([square.numel() for square in squares])
        return [square * f.view_as(square) for square, f in zip(squares, fisher)]


def _prunable_weights(model: nn.Module) -> list[Tensor]:
    return prunable_weights([*attention_blocks(model), *mlp_blocks(model)])
