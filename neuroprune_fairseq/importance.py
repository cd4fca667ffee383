"""How much a head matters to the loss, from gradients that training computes anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune_fairseq.structure import AttentionBlock, attention_blocks, full_num_heads


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


class GradientImportance:
    """Running mean over updates of each head's squared gate gradient (Michel et al.'s proxy).

    Every update is divided by its mean over all heads, those that were cut out included as
    0, so that loss scaling and the size of a batch do not decide which updates count.
    """

    def __init__(self, decay: float = 0.98, values: Tensor | None = None) -> None:
        """Start empty, or from the ``values`` of a checkpoint.

        Args:
            decay: weight of the past at every update.
            values: (all heads,), fp32, heads of all modules in forward order.
        """
        self.decay = decay
        self.values = values

    def update(self, model: nn.Module) -> None:
        """Take in the gradients that the model holds now."""
        found = torch.cat([gate_gradients(block) for block in attention_blocks(model)]).square()
        mean = found.sum() / full_num_heads(model)
        # Not finite: an overflow that the optimizer will skip. No host synchronisation here.
        found = torch.where(torch.isfinite(mean) & (mean > 0), found / mean, 0.0)
        if self.values is None:
            self.values = found
        else:
            self.values = self.values.to(found.device).lerp(found, 1.0 - self.decay)

    def keep_(self, kept_heads: Tensor) -> None:
        """Forget the heads that were cut out of the model.

        Args:
            kept_heads: (all heads before,), bool.
        """
        if self.values is not None:
            self.values = self.values[kept_heads.to(self.values.device)]

    def of_modules(self, model: nn.Module) -> list[Tensor]:
        """The importance of every head, (heads,) per attention module in forward order."""
        sizes = [block.num_heads for block in attention_blocks(model)]
        if self.values is None:
            return [torch.zeros(size) for size in sizes]
        return list(self.values.split(sizes))
