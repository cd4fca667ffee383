"""Compact checkpoints: their content, from that of the checkpoint of the model before the cut."""

from __future__ import annotations

import copy
import warnings
from argparse import Namespace
from typing import Any

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import nn

from neuroprune_fairseq.compact.cutting import Plan
from neuroprune_fairseq.compact.optimizer import cut_optimizer_state
from neuroprune_fairseq.compact.sizes import SETTING, head_numbers, per_layer_config, set_sizes_
from neuroprune_fairseq.files.checkpoint import model_settings
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.files.models import stored_weights
from neuroprune_fairseq.structure import all_attention, attention_blocks, mlp_blocks

# Options under which heads or neurons cannot be cut without changing the output.
UNSUPPORTED = {
    "quant_noise_pq": 0,
    "encoder_xformers_att_config": None,
    "decoder_xformers_att_config": None,
    "scale_heads": False,
    "scale_fc": False,
}


def check_settings(settings: Namespace, what: str) -> None:
    """Refuse settings of a model that cannot be made compact.

    Args:
        settings: of a model.
        what: whose they are, for messages.

    Raises:
        SystemExit: one line.
    """
    wrong = [name for name, plain in UNSUPPORTED.items() if getattr(settings, name, plain) != plain]
    if wrong:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        refuse(f"{what}: models trained with {flags} cannot be made compact")


def check_model(model: nn.Module, what: str) -> None:
    """Refuse a model with parts that cannot be cut, whatever its settings say.

    Args:
        model: not wrapped.
        what: whose it is, for messages.

    Raises:
        SystemExit: one line.
    """
    if not all_attention(model) and not mlp_blocks(model):
        refuse(f"{what}: the model has no attention and no MLP that could be made compact")
    for block in attention_blocks(model):
        # An output without input, and keys that belong to all heads.
        if block.module.add_zero_attn or block.module.bias_k is not None:
            refuse(f"{what}: {block.name} attends to more than its input; it cannot be cut")
    for mlp in mlp_blocks(model):
        if mlp.activation is None:
            refuse(f"{what}: {mlp.name} does not tell its activation; it cannot be cut")


def _with_sizes(state: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings with the sizes of its compact model: its entries args and cfg."""
    if state.get("args"):  # written before fairseq had cfg, which not every model leaves as it is
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hydra's, on fairseq's own schemas
            cfg = convert_namespace_to_omegaconf(state["args"])
        cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    else:
        cfg = state["cfg"]
    settings = copy.copy(cfg["model"])
    if isinstance(settings, Namespace):
        set_sizes_(settings, config)
    else:
        settings = {**settings, SETTING: config}
    return {"args": None, "cfg": {**cfg, "model": settings}}


def compact_state(
    state: dict[str, Any], before: nn.Module, after: nn.Module, plan: Plan, keep_optimizer: bool
) -> dict[str, Any]:
    """The content of a compact checkpoint.

    Args:
        state: the content of the original; stays as it is.
        before: the model of the original.
        after: the model cut from it.
        plan: what was kept.
        keep_optimizer: cut the optimizer's state too, instead of leaving it out.

    Returns:
        A dictionary of plain containers and tensors, for torch.save. An average of the
        weights (``--store-ema``) is left out.

    Raises:
        ValueError: the optimizer's state does not fit the model.
    """
    new = stored_weights(after, state["model"])
    result = {**state, "model": new, "last_optimizer_state": None}
    if config := per_layer_config(after, head_numbers(model_settings(state), before, plan)):
        result.update(_with_sizes(state, config))
    extra = state.get("extra_state") or {}
    result["extra_state"] = {k: v for k, v in extra.items() if not k.startswith("ema")}
    if keep_optimizer and state.get("last_optimizer_state"):
        result["last_optimizer_state"] = cut_optimizer_state(
            state["last_optimizer_state"], before, plan
        )
    return result


def is_half_precision(state: dict[str, Any]) -> bool:
    """Whether a checkpoint holds half-precision weights."""
    halves = (torch.float16, torch.bfloat16)
    return any(t.dtype in halves for t in state["model"].values() if torch.is_tensor(t))
