"""From a fairseq Transformer to CTranslate2, through CTranslate2's own specification.

The engine knows one number of heads for a whole stack (all attention modules of the encoder,
or of the decoder) and takes another number without an error, with wrong scores. So every
module is padded with zero heads to the largest count of its stack: a zero head adds nothing.
The width of an MLP may differ from layer to layer, and the depth from encoder to decoder: a layer
that was cut out as a whole is left out, but each must have one that is left.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from ctranslate2.converters import Converter
from ctranslate2.converters import fairseq as ct2_fairseq
from ctranslate2.specs import ModelSpec, common_spec
from ctranslate2.specs.transformer_spec import (
    TransformerDecoderModelSpec,
    TransformerDecoderSpec,
    TransformerEncoderSpec,
    TransformerSpec,
)
from fairseq.data import Dictionary
from fairseq.models import FairseqLanguageModel
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.denoising import DenoisingTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import compact
from neuroprune_fairseq.compact.modules import ConstantAttention, RemovedLayer, SelectedLinear
from neuroprune_fairseq.files.errors import refuse

ACTIVATIONS = {
    "relu": common_spec.Activation.RELU,
    "gelu": common_spec.Activation.GELU,
    "gelu_accurate": common_spec.Activation.GELUTanh,
    "gelu_fast": common_spec.Activation.GELUTanh,
    "swish": common_spec.Activation.SWISH,
}


MODELS = ("transformer", "bart", "multilingual_transformer", "transformer_lm")
TASKS = (TranslationTask, DenoisingTask, MultilingualTranslationTask, LanguageModelingTask)
WITHOUT_COUNTERPART = (
    *("adaptive_input", "adaptive_softmax_cutoff", "base_layers", "character_embeddings"),
    *("cross_self_attention", "decoder_langtok", "encoder_langtok", "lang_tok_replacing_bos_eos"),
    *("no_cross_attention", "no_token_positional_embeddings"),
    *("scale_attn", "scale_fc", "scale_heads", "scale_resids"),
)


def _is_refused(task: type) -> bool:
    """Whether sentences of a task are fed to a model in a way that the engine does not know."""
    return not issubclass(task, TASKS) or issubclass(task, TranslationFromPretrainedBARTTask)


def unsupported(settings: Namespace) -> list[str]:
    """Flags of a model and its task that the engine has no counterpart for.

    Args:
        settings: of both.
    """
    found = vars(settings)
    task = TASK_REGISTRY.get(found.get("task"))
    dims = [found.get(f"decoder_{side}_dim") for side in ("input", "output")]
    widens = [dim not in (None, found.get("decoder_embed_dim")) for dim in dims]
    norms = [found.get(f"{side}_normalize_before") for side in ("encoder", "decoder")]
    refused = {
        **{f"--{name.replace('_', '-')}": found.get(name) for name in WITHOUT_COUNTERPART},
        f"--task {found.get('task')}": task is not None and _is_refused(task),
        "--activation-fn": found.get("activation_fn", "relu") not in ACTIVATIONS,
        "--output-dictionary-size": found.get("output_dictionary_size", -1) >= 0,
        "--decoder-input-dim without --decoder-output-dim, or the reverse":
            widens[0] != widens[1],
        "--encoder-normalize-before without --decoder-normalize-before, or the reverse":
            None not in norms and norms[0] != norms[1],
    }  # fmt: skip
    return [flag for flag, is_set in refused.items() if is_set]


def _left_layers(stack: nn.Module) -> list[nn.Module]:
    return [layer for layer in stack.layers if not isinstance(layer, RemovedLayer)]


def _attention_modules(stack: nn.Module) -> list[nn.Module]:
    names = ("self_attn", "encoder_attn")
    found = [getattr(layer, name, None) for layer in _left_layers(stack) for name in names]
    return [module for module in found if module is not None]


def stack_heads(stack: nn.Module) -> int:
    """The number of heads that every module of an encoder or decoder is padded to."""
    return max((getattr(m, "num_heads", 0) for m in _attention_modules(stack)), default=0) or 1


def padding(model: nn.Module) -> str:
    """One line on what padding costs: heads that are left, and those that the engine computes.

    Args:
        model: that is exported, compact or not.

    Returns:
        As "heads left: encoder 2, padded to 2 (1 x 2); decoder 9, padded to 12 (2 x 6)": modules x
        heads of each.
    """
    texts = []
    for side in ("encoder", "decoder"):
        if (stack := getattr(compact(model), side, None)) is None:
            continue
        modules, heads = _attention_modules(stack), stack_heads(stack)
        left = sum(getattr(module, "num_heads", 0) for module in modules)
        padded = f"{len(modules) * heads} ({len(modules)} x {heads})"
        texts.append(f"{side} {left}, padded to {padded}")
    return f"heads left: {'; '.join(texts)}"


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return linear


def _padded_rows(linear: nn.Linear, rows: int) -> nn.Linear:
    """A q, k or v projection with zero rows added, and all of its columns."""
    extra = rows - linear.out_features
    weight = linear.full_weight() if isinstance(linear, SelectedLinear) else linear.weight
    weight = torch.cat([weight, weight.new_zeros(extra, weight.shape[1])])
    if linear.bias is None:
        return _linear(weight, None)
    return _linear(weight, torch.cat([linear.bias, linear.bias.new_zeros(extra)]))


@torch.no_grad()
def pad_heads(module: nn.Module, width: int, query_dim: int, key_dim: int) -> nn.Module:
    """The four projections of an attention module, with zero heads added.

    Args:
        module: MultiheadAttention, or a constant that has no heads left.
        width: num_heads x head_dim to pad to.
        query_dim: width of the layer.
        key_dim: width of what is attended to.

    Returns:
        A module that holds q_proj, k_proj, v_proj and out_proj.
    """
    padded = nn.Module()
    if isinstance(module, ConstantAttention):
        for name, dim in (("q_proj", query_dim), ("k_proj", key_dim), ("v_proj", key_dim)):
            setattr(padded, name, _linear(torch.zeros(width, dim), torch.zeros(width)))
        padded.out_proj = _linear(torch.zeros(query_dim, width), module.bias)
        return padded
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(padded, name, _padded_rows(getattr(module, name), width))
    out = module.out_proj
    columns = out.weight.new_zeros(out.out_features, width - out.in_features)
    padded.out_proj = _linear(torch.cat([out.weight, columns], dim=1), out.bias)
    return padded


def _pad_stack_(stack: nn.Module, head_dim: int, embed_dim: int, encoder_dim: int) -> None:
    width = stack_heads(stack) * head_dim
    for layer in stack.layers:
        layer.self_attn = pad_heads(layer.self_attn, width, embed_dim, embed_dim)
        if getattr(layer, "encoder_attn", None) is not None:
            layer.encoder_attn = pad_heads(layer.encoder_attn, width, embed_dim, encoder_dim)


def _common(stack: nn.Module, settings: Namespace, side: str) -> dict[str, Any]:
    """What the specifications of an encoder and of a decoder ask for."""
    width, heads = (getattr(settings, f"{side}_{of}") for of in ("embed_dim", "attention_heads"))
    return {
        "num_layers": len(stack.layers),
        "num_heads": stack_heads(stack),
        "head_dim": width // heads,
        "pre_norm": getattr(settings, f"{side}_normalize_before"),
        "no_final_norm": stack.layer_norm is None,
        "activation": ACTIVATIONS[settings.activation_fn],
        "layernorm_embedding": stack.layernorm_embedding is not None,
    }


def _encoder_spec_(encoder: nn.Module, settings: Namespace) -> TransformerEncoderSpec:
    common, width = _common(encoder, settings, "encoder"), settings.encoder_embed_dim
    spec = TransformerEncoderSpec(**common)
    _pad_stack_(encoder, common["head_dim"], width, width)
    ct2_fairseq.set_transformer_encoder(spec, encoder)
    return spec


def _decoder_spec_(decoder: nn.Module, settings: Namespace) -> TransformerDecoderSpec:
    common, width = _common(decoder, settings, "decoder"), settings.decoder_embed_dim
    encoder_width = getattr(settings, "encoder_embed_dim", None)  # of a language model: none
    attends = {"with_encoder_attention": encoder_width is not None}
    spec = TransformerDecoderSpec(
        project_in_out=decoder.project_in_dim is not None, **common, **attends
    )
    _pad_stack_(decoder, common["head_dim"], width, encoder_width or width)
    ct2_fairseq.set_transformer_decoder(spec, decoder, **attends)
    return spec


class ModelConverter(Converter):
    """CTranslate2's converter for a fairseq model that is already loaded, compact or not."""

    def __init__(
        self, model: nn.Module, settings: Namespace, source: Dictionary, target: Dictionary
    ) -> None:
        """Take the model; what contributes nothing is cut out of a copy of it.

        Args:
            model: encoder and decoder, or a language model; fp32, in evaluation mode.
            settings: its settings as saved in its checkpoint.
            source: source dictionary; of a language model its only one.
            target: target dictionary.

        Raises:
            SystemExit: one line, when the encoder or the decoder has no layer left.
        """
        self._model, self._settings = compact(model), settings
        for side in ("encoder", "decoder"):
            if (stack := getattr(self._model, side, None)) is not None:
                stack.layers = nn.ModuleList(_left_layers(stack))
                if not len(stack.layers):  # the engine asks for layer 0 when it loads
                    refuse(f"CTranslate2 needs a layer: all of the {side}'s were pruned away")
        self._source, self._target = source, target

    @torch.no_grad()
    def _load(self) -> ModelSpec:
        """Fill the specification: what :class:`Converter` asks of its subclasses."""
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)  # the converter takes numpy views
        is_language_model = isinstance(self._model, FairseqLanguageModel)
        return self._language_model() if is_language_model else self._translation_model()

    def _translation_model(self) -> TransformerSpec:
        spec = TransformerSpec(
            _encoder_spec_(self._model.encoder, self._settings),
            _decoder_spec_(self._model.decoder, self._settings),
        )
        spec.register_source_vocabulary(_vocabulary(self._source))
        spec.register_target_vocabulary(_vocabulary(self._target))
        # As fairseq does: a source sentence ends with </s>, a translation starts from it.
        spec.config.decoder_start_token = spec.config.eos_token
        spec.config.add_source_eos = True
        return spec

    def _language_model(self) -> TransformerDecoderModelSpec:
        spec = TransformerDecoderModelSpec(_decoder_spec_(self._model.decoder, self._settings))
        spec.register_vocabulary(_vocabulary(self._source))
        if not self._settings.add_bos_token:
            spec.config.bos_token = spec.config.eos_token  # what fairseq's texts start from
        return spec


def _vocabulary(dictionary: Dictionary) -> list[str]:
    """The symbols in order; the engine's name for padding is <blank>."""
    return ["<blank>" if symbol == "<pad>" else symbol for symbol in dictionary.symbols]
