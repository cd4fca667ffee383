"""How much heads and weights matter to the loss, from gradients that training computes anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from neuroprune_fairseq.method.pieces import pieces
from neuroprune_fairseq.method.sparsity import full_sizes
from neuroprune_fairseq.structure import (
    AttentionBlock,
    attention_blocks,
    full_num_heads,
    mlp_blocks,
    prunable_weights,
)

# Gives the scores of one weight's entries, fp32, in order, in pieces of any shape. They are made
# anew each time that they are asked for: a model's scores are as large as its weights.
Score = Callable[[], Iterable[Tensor]]


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
    def gradients(model: nn.Module) -> list[Tensor]:
        """What is squared, from the gradients that the model holds now: n entries in all."""
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
        size = sum(gradient.numel() for gradient in self.gradients(model))
        if self.values is not None and getattr(self.values, "shape", None) != (size,):
            raise ValueError(f"the importance of {size} heads or weights is not in it")

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the gradients that the model holds now."""
        gradients = self.gradients(model)
        mean = _sum_of_squares(gradients) / self.full_size(model)
        # Not finite: an overflow that the optimizer will skip. No host synchronisation here.
        counts, share = torch.isfinite(mean) & (mean > 0), 1.0 - self.decay
        if self.values is None:
            size = sum(gradient.numel() for gradient in gradients)
            self.values, share = mean.new_zeros(size), 1.0
        self.values = self.values.to(mean.device)
        parts = self.values.split([gradient.numel() for gradient in gradients])
        for part, gradient in zip(parts, gradients):
            for old, found in pieces(part, gradient):
                new = found.float().square().div_(mean)
                old.lerp_(torch.where(counts, new, 0.0), share)


def _sum_of_squares(tensors: list[Tensor]) -> Tensor:
    """In fp32, without a copy of a tensor."""
    total = tensors[0].new_zeros((), dtype=torch.float32)
    for tensor in tensors:
        for (piece,) in pieces(tensor):
            total += piece.float().square().sum()
    return total


class HeadImportance(_SquaredGradients):
    """Each head's squared gate gradient (Michel et al.'s proxy), heads in forward order."""

    @staticmethod
    def gradients(model: nn.Module) -> list[Tensor]:
        return [torch.cat([gate_gradients(block) for block in attention_blocks(model)])]

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
    def gradients(model: nn.Module) -> list[Tensor]:
        weights = _prunable_weights(model)
        return [w.new_zeros(()).expand_as(w) if w.grad is None else w.grad for w in weights]

    @staticmethod
    def full_size(model: nn.Module) -> int:
        return full_sizes(model)["total"]

    def scores(self, model: nn.Module) -> list[Score]:
        """w^2 F of every prunable weight.

        Attention modules come first, then MLPs, each in forward order. Before the first
        update F is 1, so that magnitude decides.
        """
        weights = _prunable_weights(model)
        if self.values is None:
            return [partial(_squares, weight) for weight in weights]
        return [partial(_squares, *both) for both in zip(weights, self._of_weights(weights))]

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


@torch.no_grad()
def _squares(weight: Tensor, fisher: Tensor | None = None) -> Iterator[Tensor]:
    if fisher is None:
        yield from (piece.float().square() for (piece,) in pieces(weight))
    else:
        yield from (piece.float().square().mul_(f) for piece, f in pieces(weight, fisher))


def _prunable_weights(model: nn.Module) -> list[Tensor]:
    return prunable_weights([*attention_blocks(model), *mlp_blocks(model)])
