"""Cutting an optimizer's moments like the weights they belong to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import Plan, cut_


def _cut_like(model: nn.Module, plan: Plan, moments: list[Tensor]) -> list[Tensor]:
    """Put one kind of moment in the place of the weights, cut, and take it out again."""
    carrier = copy.deepcopy(model)
    for parameter, moment in zip(carrier.parameters(), moments):
        parameter.data = moment
    cut_(carrier, plan)
    return [parameter.data.clone() for parameter in carrier.parameters()]


def _cut_flat(entry: dict[str, Any], model: nn.Module, plan: Plan) -> dict[str, Any]:
    """The state of fp16 training, which flattens all parameters into one."""
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    cut = dict(entry)
    for name, value in entry.items():
        if torch.is_tensor(value) and value.numel() == sum(sizes):
            pieces = [p.view(w.shape) for p, w in zip(value.split(sizes), parameters)]
            cut[name] = torch.cat([piece.flatten() for piece in _cut_like(model, plan, pieces)])
    return cut


def _cut_each(entries: list[dict], model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """The state of fp32 training: one entry for every parameter."""
    small = copy.deepcopy(model)
    old_names = [name for name, _ in model.named_parameters()]
    cut_(small, plan)
    new_names = [_name_before(name, old_names) for name, _ in small.named_parameters()]
    cut = [dict(entries[old_names.index(name)]) for name in new_names]
    for key, value in entries[0].items():
        if torch.is_tensor(value) and value.shape == next(model.parameters()).shape:
            moments = _cut_like(model, plan, [entry[key] for entry in entries])
            for entry, moment in zip(cut, moments):
                entry[key] = moment
    return cut


def _name_before(name: str, old_names: list[str]) -> str:
    """A constant's bias was the bias of out_proj."""
    if name in old_names:
        return name
    return f"{name.removesuffix('.bias')}.out_proj.bias"


def cut_optimizer_state(state: dict[str, Any], model: nn.Module, plan: Plan) -> dict[str, Any]:
    """The optimizer state of a compact model, from that of the model it is cut from.

    Args:
        state: ``last_optimizer_state`` of a checkpoint: moments in the order of the
            model's parameters, or all of them flattened into one (fp16).
        model: the model before the cut.
        plan: what is kept.

    Returns:
        A new state; every tensor of a parameter's shape is cut, anything else stays.

    Raises:
        ValueError: the state does not belong to this model's parameters alone.
    """
    entries = [state["state"][index] for index in sorted(state["state"])]
    if len(entries) == len(list(model.parameters())):
        cut = _cut_each(entries, model, plan)
    elif len(entries) == 1:
        cut = [_cut_flat(entries[0], model, plan)]
    else:
        raise ValueError(f"it holds {len(entries)} states for another set of parameters")
    group = {**state["param_groups"][0], "params": list(range(len(cut)))}
    return {**state, "state": dict(enumerate(cut)), "param_groups": [group]}
