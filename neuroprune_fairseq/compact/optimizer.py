"""Cutting what belongs to a model's parameters: an optimizer's moments, fp32 master copies."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import Plan, cut_


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What fairseq gives the optimizer, by name and in this order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _name_before(name: str, old_names: Mapping[str, object]) -> str:
    """A constant's bias was the bias of out_proj."""
    if name in old_names:
        return name
    return f"{name.removesuffix('.bias')}.out_proj.bias"


def cut_like_parameters(
    tensors: Mapping[str, Tensor], model: nn.Module, plan: Plan
) -> dict[str, Tensor]:
    """Cut tensors as a plan cuts the parameters that they belong to.

    Args:
        tensors: of the shapes of some of the model's parameters, by the parameter's name.
        model: before the cut; stays as it is.
        plan: what is kept.

    Returns:
        New tensors, by the old names, in the cut model's order; without those of parameters
        that are gone.
    """
    carrier = copy.deepcopy(model)  # takes them through the same cut
    parameters = trained_parameters(carrier)
    for name, tensor in tensors.items():
        parameters[name].data = tensor
    cut_(carrier, plan)
    cut = {_name_before(name, parameters): p for name, p in trained_parameters(carrier).items()}
    return {name: p.data.clone() for name, p in cut.items() if name in tensors}


def _cut_flat(entry: dict[str, Any], model: nn.Module, plan: Plan) -> dict[str, Any]:
    """The state of fp16 training, which flattens all parameters into one."""
    parameters = trained_parameters(model)
    sizes = [parameter.numel() for parameter in parameters.values()]
    cut = dict(entry)
    for key, value in entry.items():
        if torch.is_tensor(value) and value.numel() == sum(sizes):
            pieces = zip(parameters.items(), value.split(sizes))
            tensors = {name: piece.view(p.shape) for (name, p), piece in pieces}
            kept = cut_like_parameters(tensors, model, plan)
            cut[key] = torch.cat([tensor.flatten() for tensor in kept.values()])
    return cut


def _cut_each(
    entries: Mapping[str, dict[str, Any]], model: nn.Module, plan: Plan
) -> list[dict[str, Any]]:
    """The state of fp32 training: one entry for every parameter, empty before its first update."""
    parameters = trained_parameters(model)
    kept = cut_like_parameters({name: p.data for name, p in parameters.items()}, model, plan)
    cut = {name: dict(entries[name]) for name in kept}
    moments: dict[str, dict[str, Tensor]] = defaultdict(dict)  # by kind and parameter
    for name, entry in entries.items():
        for key, value in entry.items():
            if torch.is_tensor(value) and value.shape == parameters[name].shape:
                moments[key][name] = value
    for key, tensors in moments.items():
        for name, moment in cut_like_parameters(tensors, model, plan).items():
            cut[name][key] = moment
    return list(cut.values())


def cut_optimizer_state(state: dict[str, Any], model: nn.Module, plan: Plan) -> dict[str, Any]:
    """The optimizer state of a compact model, from that of the model it is cut from.

    Args:
        state: as a fairseq optimizer's ``state_dict()``: moments in the order of the model's
            trained parameters, or of all of them flattened into one (fp16).
        model: the model before the cut.
        plan: what is kept.

    Returns:
        A new state; every tensor of a parameter's shape is cut, anything else stays.

    Raises:
        ValueError: the state does not belong to this model's parameters alone.
    """
    names = list(trained_parameters(model))
    indices = [index for group in state["param_groups"] for index in group["params"]]
    entries = [state["state"].get(index, {}) for index in indices]
    if len(state["param_groups"]) == 1 and len(entries) == len(names):
        cut = _cut_each(dict(zip(names, entries)), model, plan)
    elif len(entries) == 1:
        cut = [_cut_flat(entries[0], model, plan)]
    else:
        raise ValueError(f"it holds {len(entries)} states for another set of parameters")
    group = {**state["param_groups"][0], "params": list(range(len(cut)))}
    filled = {index: entry for index, entry in enumerate(cut) if entry}
    return {**state, "state": filled, "param_groups": [group]}
