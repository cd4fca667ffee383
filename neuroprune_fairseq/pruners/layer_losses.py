"""What the loss would rise by without a whole layer: measured, not estimated.

A gradient at a factor of 1 says little about the loss at 0, and that is how far a layer goes. Since
there are few layers, the loss of a batch without each of them is cheap: a forward pass a layer, in
the update before each step of the schedule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.pruners.base import Run
from neuroprune_fairseq.structure import layer_blocks

AT_A_TIME = 12  # layers that are measured anew before a step, in turn
_DECAY = 0.5  # weight of what was measured before


@contextmanager
def left_out(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Each of these layers passes on what it is given, as the model does once it is cut out.

    Args:
        layers: encoder or decoder layers of fairseq; what is given first is x.
    """

    def pass_on(_: nn.Module, given: tuple, named: dict[str, Any], output: Any) -> Any:
        x = given[0] if given else named["x"]
        return (x, *output[1:]) if isinstance(output, tuple) else x

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(pass_on, with_kwargs=True))
        yield


class LayerLosses:
    """Running means of what the loss per token rises by without each layer.

    Batches are those of the training, without dropout; their losses are summed over micro-batches
    and workers.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.values: dict[str, float] = {}  # by layer, those measured longest ago first
        self._names: list[str] = []  # what is measured in this update
        self._sums = torch.zeros(0, dtype=torch.float64)

    def measure(self, run: Run, layers: Collection[str], sample_size: Any) -> None:
        """Take in a micro-batch.

        Args:
            run: with its loss.
            layers: names of those that are there; what else can go is gone already.
            sample_size: what the loss is summed over, 0 for a batch that does not count.
        """
        if run.begins_update:
            unknown = [name for name in layers if name not in self.values]
            self._names = unknown or [name for name in self.values if name in layers][:AT_A_TIME]
            self._sums = torch.zeros(len(self._names) + 1, dtype=torch.float64, device="cpu")
        if not sample_size or run.loss_of_batch is None:
            return
        modules = {block.name: block.module for block in layer_blocks(run.model)}
        gone = [module for name, module in modules.items() if name not in layers]
        with left_out(gone):
            whole = run.loss_of_batch()
            losses = []
            for name in self._names:
                with left_out([modules[name]]):
                    losses.append(run.loss_of_batch() - whole)
        size = whole.new_tensor(float(sample_size))
        self._sums += torch.stack([*losses, size]).cpu()

    def end_update(self, run: Run) -> None:
        """Take in what was measured in this update; all workers must call it."""
        if not self._names:
            return
        *rises, size = run.sum_over_workers(self._sums).tolist()
        for name, rise in zip(self._names, rises):
            value = rise / size if size else float("nan")
            if value - value == 0:  # finite: no overflow
                old = self.values.pop(name, value)
                self.values[name] = _DECAY * old + (1 - _DECAY) * value
        self._names = []

    def in_units_of(self, parts: Mapping[str, Tensor]) -> dict[str, float]:
        """The values on the scale of the importance of the layers' parts.

        All layers together are worth as much as all parts together, and a layer at least as much
        as its most important part.

        Args:
            parts: by layer, the importance of its heads and neurons, (n,), >= 0.

        Returns:
            By name, of those layers that were measured.
        """
        known = {name: max(0.0, self.values[name]) for name in parts if name in self.values}
        total = sum(float(parts[name].sum()) for name in known)
        scale = total / (sum(known.values()) or 1.0)
        return {
            name: max(scale * value, float(parts[name].max())) if parts[name].numel() else 0.0
            for name, value in known.items()
        }

    def keep(self, layers: Collection[str]) -> None:
        """Forget the others."""
        self.values = {name: value for name, value in self.values.items() if name in layers}
