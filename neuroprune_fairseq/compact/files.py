"""Compact checkpoints: from a checkpoint's content to a model and back, without its corpus."""

from __future__ import annotations

import copy
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY, build_model
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import Plan, shapes
from neuroprune_fairseq.compact.model import ARCH, describe_, head_numbers
from neuroprune_fairseq.compact.optimizer import cut_optimizer_state
from neuroprune_fairseq.files.checkpoint import model_settings
from neuroprune_fairseq.files.errors import refuse, refusing

# Options under which heads or neurons cannot be cut without changing the output.
UNSUPPORTED = {
    "quant_noise_pq": 0,
    "encoder_xformers_att_config": None,
    "decoder_xformers_att_config": None,
    "scale_heads": False,
    "scale_fc": False,
}


def settings_of(state: dict[str, Any], path: str) -> Namespace:
    """The model settings of a checkpoint.

    Args:
        state: the content of a checkpoint.
        path: for messages.

    Raises:
        SystemExit: one line, when this is none of fairseq's Transformers.
    """
    settings = copy.copy(model_settings(state))
    _check_architecture(settings, path)
    ARCH_CONFIG_REGISTRY[settings.arch](settings)  # what was left open when the model was built
    return settings


def _check_architecture(settings: Namespace, what: str) -> None:
    arch = getattr(settings, "arch", None)
    if ARCH_MODEL_NAME_REGISTRY.get(arch) not in ("transformer", ARCH):
        refuse(f"{what}: architecture {arch!r} is none of fairseq's model 'transformer'")


def check_settings(settings: Namespace, what: str) -> None:
    """Refuse settings of a model that cannot be made compact.

    Args:
        settings: of a model.
        what: whose they are, for messages.

    Raises:
        SystemExit: one line.
    """
    _check_architecture(settings, what)
    wrong = [name for name, plain in UNSUPPORTED.items() if getattr(settings, name, plain) != plain]
    if wrong:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        refuse(f"{what}: models trained with {flags} cannot be made compact")


def _numbered(size: int) -> Dictionary:
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"token{number}")
    return dictionary


def stand_in_dictionaries(state: dict[str, Any]) -> tuple[Dictionary, Dictionary]:
    """Dictionaries of the sizes that the embeddings have: a model is built without its corpus.

    Returns:
        source, target.
    """
    weights = state["model"]
    sizes = [len(weights[f"{side}.embed_tokens.weight"]) for side in ("encoder", "decoder")]
    source, target = map(_numbered, sizes)
    return source, target


def model_of(state: dict[str, Any], path: str) -> nn.Module:
    """Build the model of a checkpoint and load its weights.

    Args:
        state: the content of a checkpoint; stays as it is.
        path: for messages.

    Returns:
        The model, fp32, in evaluation mode, on the CPU.

    Raises:
        SystemExit: one line, when settings and weights do not fit.
    """
    settings = settings_of(state, path)
    settings.encoder_embed_path = settings.decoder_embed_path = None  # the weights are here
    with refusing(f"{path}: weights and settings do not fit; take a checkpoint that is whole"):
        source, target = stand_in_dictionaries(state)
        task = SimpleNamespace(source_dictionary=source, target_dictionary=target)
        model = build_model(settings, task)
        model.load_state_dict(dict(state["model"]), strict=True, model_cfg=settings)
    return model.float().eval()


def _stored(tensor: Tensor, like: Tensor | None, seen: dict[int, Tensor]) -> Tensor:
    """In the precision of the original; what was one tensor stays one."""
    if like is None or like.dtype == tensor.dtype:
        return tensor
    return seen.setdefault(tensor.data_ptr(), tensor.to(like.dtype))


def _compact_settings(
    settings: Namespace, before: nn.Module, after: nn.Module, plan: Plan
) -> Namespace:
    heads, settings = head_numbers(settings, before, plan), copy.copy(settings)
    describe_(settings, after, heads)
    return settings


def compact_state(
    state: dict[str, Any], before: nn.Module, after: nn.Module, plan: Plan, keep_optimizer: bool
) -> dict[str, Any]:
    """The content of a compact checkpoint.

    Args:
        state: the content of the original; stays as it is.
        before: the model of the original.
        after: the model cut from it. When nothing was cut, the architecture stays too.
        plan: what was kept.
        keep_optimizer: cut the optimizer's state too, instead of leaving it out.

    Returns:
        A dictionary of plain containers and tensors, for torch.save. An average of the
        weights (``--store-ema``) is left out.

    Raises:
        ValueError: the optimizer's state does not fit the model.
    """
    old, seen = state["model"], {}
    # Only what the file had: a loaded model may hold buffers that its checkpoint does not.
    names = [name for name, _ in after.named_parameters(remove_duplicate=False)]
    names += [name for name in old if name not in names]
    weights = after.state_dict()
    new = {name: _stored(weights[name], old.get(name), seen) for name in names if name in weights}
    result = {**state, "model": new, "last_optimizer_state": None}
    if shapes(after) != shapes(before):
        settings = _compact_settings(model_settings(state), before, after, plan)
        if state.get("args"):
            result["args"] = settings
        if state["cfg"]:
            result["cfg"] = {**state["cfg"], "model": settings}
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
