"""The sizes of a compact model, as its checkpoint's model settings hold them.

Everything else about the model stays what it was: its architecture and all its settings. One
setting is added, named after the per-layer configuration of Hugging Face transformers. It has
the layers, by their names in state dicts, and of a layer the sizes, that differ::

    per_layer_config = {
        "encoder.layers.0": {
            "intermediate_size": 10,  # hidden neurons
            "self_attn": {
                "num_attention_heads": 2,
                "heads": [0, 3],  # which they are in the model that was first cut
                "inputs": [0, 1, 5],  # dimensions that q, k and v read, where not all
            },
        },
        "decoder.layers.3": {"encoder_attn": {"num_attention_heads": 0, "heads": []}},
        "decoder.layers.4": {"removed": True},  # the whole layer
    }
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import INPUTS, Plan, cut_, whole_plan
from neuroprune_fairseq.compact.modules import SelectedLinear
from neuroprune_fairseq.structure import (
    AttentionBlock,
    LayerBlock,
    RemovedAttention,
    all_attention,
    attention_blocks,
    layer_blocks,
    mlp_blocks,
    removed_mlps,
)

SETTING = "per_layer_config"

Config = dict[str, dict[str, Any]]  # by layer


def sizes_in(settings: Any) -> Config:
    """What a model's settings say on its sizes.

    Args:
        settings: a Namespace, or the DictConfig that fairseq makes of a dataclass.

    Returns:
        Plain dictionaries and lists; empty for a whole model.
    """
    found: Any = getattr(settings, SETTING) if SETTING in settings else None
    found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
    return found or {}


def set_sizes_(settings: Any, config: Config) -> None:
    """Make settings those of a model of these sizes, in place.

    Args:
        settings: as for :func:`sizes_in`.
        config: as :func:`per_layer_config` gives it; empty for a whole model.
    """
    with open_dict(settings) if OmegaConf.is_config(settings) else nullcontext():
        if config:
            setattr(settings, SETTING, config)
        elif SETTING in settings:
            delattr(settings, SETTING)


def head_numbers(settings: Any, model: nn.Module, plan: Plan | None = None) -> dict[str, list[int]]:
    """The heads of a model, numbered as in the model that was first cut.

    Args:
        settings: of the model.
        model: fits the settings.
        plan: what of it is kept; None is everything.

    Returns:
        Ascending numbers for every attention module, in forward order; an empty list where no
        head is left.
    """
    config, numbers = sizes_in(settings), {}
    for block in all_attention(model):
        layer, _, name = block.name.rpartition(".")
        old = config.get(layer, {}).get(name, {}).get("heads", range(block.num_heads))
        kept = range(block.num_heads) if plan is None else plan.get(block.name, ())
        numbers[block.name] = [old[i] for i in kept]
    return numbers


def _attention_sizes(block: AttentionBlock | RemovedAttention, heads: list[int]) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    if block.num_heads < block.full_num_heads:
        sizes.update(num_attention_heads=block.num_heads, heads=heads)
    if isinstance(block, AttentionBlock) and isinstance(block.q_proj, SelectedLinear):
        sizes["inputs"] = block.q_proj.inputs.tolist()
    return sizes


def _names_by_first(model: nn.Module) -> dict[str, list[str]]:
    """All names of a module, by the first of them: layers may be shared."""
    first: dict[nn.Module, str] = {}
    names: dict[str, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(first.setdefault(module, name), []).append(name)
    return names


def per_layer_config(model: nn.Module, numbers: Mapping[str, list[int]]) -> Config:
    """The sizes of a model, where they differ from those that its other settings name.

    Args:
        model: not wrapped, compact or whole.
        numbers: its heads, as :func:`head_numbers` gives them.

    Returns:
        Plain dictionaries, a shared layer under each of its names; empty for a whole model.
    """
    config: Config = {mlp.name: {"removed": True} for mlp in removed_mlps(model)}
    for mlp in mlp_blocks(model):
        if mlp.fc1.out_features < mlp.full_ffn_embed_dim:
            config[mlp.name] = {"intermediate_size": mlp.fc1.out_features}
    for block in all_attention(model):
        layer, _, name = block.name.rpartition(".")
        gone = "removed" in config.get(layer, ())
        if not gone and (sizes := _attention_sizes(block, numbers[block.name])):
            config.setdefault(layer, {})[name] = sizes
    return {name: config[layer] for layer, names in _names_by_first(model).items()
            if layer in config for name in names}  # fmt: skip


def _first(size: object, smallest: int, whole: int, what: str) -> Tensor:
    """The first ``size`` of the heads or neurons that a model has."""
    if not isinstance(size, int) or not smallest <= size <= whole:
        raise ValueError(f"{what} cannot be {size!r} of {whole}")
    return torch.arange(size)


def _some(indices: object, whole: int, what: str) -> list[int]:
    """Checked to be different and ascending numbers below ``whole``."""
    if not isinstance(indices, list) or indices != sorted(set(range(whole)).intersection(indices)):
        raise ValueError(f"{what} is no ascending list of some of {whole}")
    return indices


def _attention_plan(block: AttentionBlock, sizes: Mapping[str, Any]) -> Plan:
    """What is kept of an attention module for it to have these sizes."""
    whole, plan = block.num_heads, {}
    for key, value in sizes.items():
        what = f"{key} of {block.name}"
        if key == "num_attention_heads":
            plan[block.name] = _first(value, 0, whole, what)
        elif key == "inputs" and value:
            plan[block.name + INPUTS] = torch.tensor(_some(value, block.q_proj.in_features, what))
        elif key != "heads":
            raise ValueError(f"{what} cannot be {value!r}")
    heads = _some(sizes.get("heads", list(range(whole))), whole, f"heads of {block.name}")
    if len(heads) != len(plan.get(block.name, heads)) or ("heads" in sizes) != (block.name in plan):
        raise ValueError(f"num_attention_heads and heads of {block.name} do not agree")
    return plan


def _removed(layer: LayerBlock, value: object) -> Plan:
    """The plan that keeps nothing of a layer."""
    if value is not True:
        raise ValueError(f"removed of {layer.name} cannot be {value!r}")
    return {block.name: torch.arange(0) for block in [*layer.attention, layer.mlp]}


def _is_of_another_pair(model: nn.Module, layer: str) -> bool:
    """Whether a layer belongs to a language pair that a multilingual model was built without."""
    parts = layer.split(".")
    return parts[0] == "models" and len(parts) > 1 and parts[1] not in getattr(model, "models", ())


def _entries(config: Config) -> Iterable[tuple[str, str, Any]]:
    """(layer, key, value) of all layers."""
    if not isinstance(config, Mapping) or not all(isinstance(v, Mapping) for v in config.values()):
        raise ValueError(f"{SETTING} does not name sizes by layers")
    return ((layer, key, value) for layer, sizes in config.items() for key, value in sizes.items())


def reshape_(model: nn.Module, config: Config) -> None:
    """Cut a freshly built model down to the sizes of a compact one, in place.

    Args:
        model: whole; its weights are of no interest.
        config: as :func:`per_layer_config` gives it.

    Raises:
        ValueError: names a layer or a size that the model cannot have; it is left whole then.
    """
    attention = {block.name: block for block in attention_blocks(model)}
    mlps, plan = {block.name: block for block in mlp_blocks(model)}, whole_plan(model)
    layers = {layer.name: layer for layer in layer_blocks(model)}
    firsts = {name: first for first, names in _names_by_first(model).items() for name in names}
    for layer, key, value in _entries(config):
        if _is_of_another_pair(model, layer):
            continue
        first = firsts.get(layer, layer)
        name = f"{first}.{key}"
        if key == "removed" and first in layers and len(config[layer]) == 1:
            plan.update(_removed(layers[first], value))
        elif key == "intermediate_size" and first in mlps:
            whole = mlps[first].fc1.out_features
            plan[first] = _first(value, 1, whole, f"{key} of {layer}")
        elif name in attention and isinstance(value, Mapping):
            plan.update(_attention_plan(attention[name], value))
        else:
            raise ValueError(f"the model has no {key} in {layer}")
    cut_(model, plan)
