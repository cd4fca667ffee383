"""Edits that survive half-precision training.

With --fp16 or --bf16 fairseq's optimizer keeps an fp32 master copy of every parameter and
overwrites the model from it at each step: an edit of the model alone is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def master_copies(optimizer: Any) -> list[tuple[nn.Parameter, Tensor]]:
    """Pairs of a half-precision parameter and (a view of) its fp32 master copy.

    fairseq keeps the copies as a list, or flattened into one tensor per device
    (``fp32_params`` beside ``fp16_params``). Empty for optimizers without them.
    """
    masters = getattr(optimizer, "fp32_params", None)
    if masters is None:
        return []
    if not isinstance(masters, dict):
        return [(param, master.data) for param, master in zip(optimizer.fp16_params, masters)]
    offsets = dict.fromkeys(masters, 0)
    pairs = []
    for param in optimizer.fp16_params:
        device, start = param.device.index, offsets[param.device.index]
        offsets[device] = start + param.numel()
        pairs.append((param, masters[device].data[start : offsets[device]].view_as(param)))
    return pairs


@contextmanager
def master_weights(optimizer: Any) -> Iterator[None]:
    """Within it the model's parameters are the fp32 master copies, if there are any.

    What is edited in place there is edited in full precision; on leaving, the
    half-precision model is refreshed from its master copies.

    Args:
        optimizer: a fairseq optimizer (FP16Optimizer has master copies, others have none).
    """
    pairs = [(param, param.data, master) for param, master in master_copies(optimizer)]
    for param, _, master in pairs:
        param.data = master
    try:
        yield
    finally:
        for param, half, master in pairs:
            param.data = half.copy_(master)
