"""How much heads and hidden neurons matter to the loss, on one scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


def _times_gradient(parameter: Tensor | None) -> Tensor | None:
    """Entry by entry, the derivative of the loss by a factor on the parameter; fp32."""
    if parameter is None or parameter.grad is None:
        return None
    return parameter.detach().float() * parameter.grad.float()


@torch.no_grad()
def part_gate_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The derivatives of the loss by factors on what parts add to the residual path, at factor 1.

    A head reaches the rest of the model through its columns of out_proj alone, a neuron through
    its column of fc2: so each derivative is a sum of W * dloss/dW.

    Args:
        model: a fairseq model that holds gradients, wrapped or not.

    Returns:
        By name, fp32: heads of a module (num_heads,), neurons of an MLP (neurons,). Parts without
        a gradient have 0.
    """
    found: dict[str, Tensor] = {}
    for block in attention_blocks(model):
        weight = block.out_proj.weight
        product = _times_gradient(weight)
        heads = weight.new_zeros(block.num_heads, dtype=torch.float32)
        if product is not None:
            heads = product.view(-1, block.num_heads, block.head_dim).sum(dim=(0, 2))
        found[block.name] = heads
    for mlp in mlp_blocks(model):
        product = _times_gradient(mlp.fc2.weight)
        neurons = mlp.fc2.weight.new_zeros(mlp.fc1.out_features, dtype=torch.float32)
        found[mlp.name] = neurons if product is None else product.sum(dim=0)
    return found


class PartImportance:
    """Running means over updates of all parts' squared gate gradients.

    To second order the loss rises by about half of it when a part goes (the empirical Fisher
    information of a factor; Michel et al. 2019 and Kwon et al. 2022 rank heads and neurons so).
    Every update is divided by its sum, so that loss scaling and the size of a batch do not decide
    which updates count.
    """

    def __init__(self, decay: float = 0.98) -> None:
        """Start empty.

        Args:
            decay: weight of the past at every update.
        """
        self.decay = decay
        self.values: dict[str, Tensor] = {}  # named as in part_gate_gradients, fp32, >= 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the gradients that the model holds now."""
        found = {name: value.square() for name, value in part_gate_gradients(model).items()}
        total = torch.stack([value.sum() for value in found.values()]).sum()
        # Not finite: an overflow that the optimizer will skip. No host synchronisation here.
        usable = torch.isfinite(total) & (total > 0)
        for name, value in found.items():
            value = torch.where(usable, value / total, 0.0)
            old = self.values.get(name)
            # A checkpoint's are on the CPU.
            mean = value if old is None else old.to(value.device).lerp_(value, 1.0 - self.decay)
            self.values[name] = mean

    def keep(self, kept: Mapping[str, Tensor]) -> None:
        """Forget what is going to be cut out of the model.

        Args:
            kept: the heads or neurons that stay, (n,) long, by the name of module or MLP; of a
                layer that goes, nothing is named.
        """
        self.values = {
            name: value[kept[name].to(value.device)]
            for name, value in self.values.items()
            if len(kept.get(name, ()))
        }

    def check(self, model: nn.Module) -> None:
        """See that the values of a checkpoint are this model's.

        Raises:
            ValueError: they are not.
        """
        sizes = {name: value.shape for name, value in part_gate_gradients(model).items()}
        for name, value in self.values.items():
            if getattr(value, "shape", None) != sizes.get(name):
                raise ValueError(f"the importance of {name} is not this model's")
