"""How much heads and weights matter to the loss, from gradients that training computes anyway."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.sparsity import full_sizes
from neuroprune_fairseq.structure import (
    AttentionBlock,
    attention_blocks,
    full_num_heads,
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

    Every update is divided by its mean, with 0 for what was cut out of the model, so that loss
    scaling and the size of a batch do not decide which updates count.
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

    @staticmethod
    def full_size(model: nn.Module) -> int:
        """How many they were before any were cut out of the model."""
        raise NotImplementedError

    def check(self, model: nn.Module) -> None:
        """See that the values of a checkpoint are this model's.

        Raises:
            ValueError: they are not.
        """
        size = self.gradients(model).shape
        if self.values is not None and getattr(self.values, "shape", None) != size:
            raise ValueError(f"the importance of {size.numel()} heads or weights is not in it")

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the gradients that the model holds now."""
        found = self.gradients(model).square()
        mean = found.sum() / self.full_size(model)
        # Not finite: an overflow that the optimizer will skip. No host synchronisation here.
        found = torch.where(torch.isfinite(mean) & (mean > 0), found / mean, 0.0)
        if self.values is None:
            self.values = found
        else:
            self.values = self.values.to(found.device).lerp_(found, 1.0 - self.decay)


class HeadImportance(_SquaredGradients):
    """Each head's squared gate gradient (Michel et al.'s proxy), heads in forward order."""

    @staticmethod
    def gradients(model: nn.Module) -> Tensor:
        return torch.cat([gate_gradients(block) for block in attention_blocks(model)])

    @staticmethod
    def full_size(model: nn.Module) -> int:
        return full_num_heads(model)

    def of_modules(self, model: nn.Module) -> list[Tensor]:
        """The importance of every head, (heads,) per attention module in forward order."""
        sizes = [block.num_heads for block in attention_blocks(model)]
        if self.values is None:
            return [torch.zeros(size) for size in sizes]
        return list(self.values.split(sizes))

    def keep(self, model: nn.Module, kept: Mapping[str, Tensor]) -> None:
        """Forget heads that are going to be cut out of the model.

        Args:
            model: before the cut.
            kept: the heads that stay, (n,) long, by the name of their module.
        """
        if self.values is not None:
            modules = zip(attention_blocks(model), self.of_modules(model))
            self.values = torch.cat([values[kept[block.name]] for block, values in modules])


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

    @staticmethod
    def full_size(model: nn.Module) -> int:
        return full_sizes(model)["total"]

    @torch.no_grad()
    def scores(self, model: nn.Module) -> list[Tensor]:
        """w^2 F of every prunable weight: one fp32 tensor each, of its shape.

        Attention modules come first, then MLPs, each in forward order. Before the first
        update F is 1, so that magnitude decides.
        """
        weights = _prunable_weights(model)
        squares = [weight.float().square() for weight in weights]
        if self.values is None:
            return squares
        return [square * fisher for square, fisher in zip(squares, self._of_weights(weights))]

    def _of_weights(self, weights: list[Tensor]) -> list[Tensor]:
        assert self.values is not None
        pieces = self.values.to(weights[0].device).split([weight.numel() for weight in weights])
        return [piece.view_as(weight) for piece, weight in zip(pieces, weights)]

    def by_name(self, model: nn.Module) -> dict[str, Tensor]:
        """F of every prunable weight, in its shape, by the parameter's name; empty before it is."""
        if self.values is None:
            return {}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        weights = _prunable_weights(model)
        return dict(zip((names[id(weight)] for weight in weights), self._of_weights(weights)))


def _prunable_weights(model: nn.Module) -> list[Tensor]:
    return prunable_weights([*attention_blocks(model), *mlp_blocks(model)])
