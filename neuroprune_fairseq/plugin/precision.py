"""Edits that survive half-precision training, and what it needs to be resumed exactly.

With --fp16 or --bf16 fairseq's optimizer keeps an fp32 master copy of every parameter and
overwrites the model from it at each step: an edit of the model alone is lost. Its checkpoints
hold the half-precision model only, so a resumed run would begin from rounded weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
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


def loss_scale(optimizer: Any) -> float:
    """What fairseq's optimizer multiplied the loss with before the backward pass."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return 1.0
    return scaler.get_scale() if hasattr(scaler, "get_scale") else scaler.loss_scale


def half_precision_state(optimizer: Any) -> dict[str, Any]:
    """What a checkpoint of fairseq lacks for half-precision training to go on exactly.

    Args:
        optimizer: a fairseq optimizer.

    Returns:
        ``master_weights``, all fp32 copies in one tensor (n,) on the CPU, and ``loss_scaler``,
        plain numbers; each only where the optimizer has such.
    """
    state: dict[str, Any] = {}
    masters = [master.flatten() for _, master in master_copies(optimizer)]
    if masters:
        state["master_weights"] = torch.cat(masters).cpu()
    scaler: Any = getattr(optimizer, "scaler", None)
    if hasattr(scaler, "state_dict"):  # torch's, with --amp
        state["loss_scaler"] = scaler.state_dict()
    elif scaler is not None:  # fairseq's; its optimizer keeps the scale, but not these counts
        counts = {name: count for name, count in vars(scaler).items() if name.startswith("_")}
        state["loss_scaler"] = counts
    return state


@torch.no_grad()
def restore_half_precision_(optimizer: Any, state: dict[str, Any]) -> None:
    """Put a :func:`half_precision_state` back; nothing for an optimizer of another precision.

    Args:
        optimizer: a fairseq optimizer whose model was loaded from the same checkpoint.
        state: may hold other entries, too.
    """
    masters = [master for _, master in master_copies(optimizer)]
    if masters and "master_weights" in state:
        saved = state["master_weights"].split([master.numel() for master in masters])
        for master, values in zip(masters, saved):
            master.copy_(values.view_as(master))
    scaler: Any = getattr(optimizer, "scaler", None)
    counts = state.get("loss_scaler")
    if hasattr(scaler, "load_state_dict") and counts:
        scaler.load_state_dict(counts)
    elif scaler is not None and counts:
        vars(scaler).update(counts)
