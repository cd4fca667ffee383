"""From a fairseq Transformer to CTranslate2, through CTranslate2's own specification.

The engine knows one number of heads for a whole stack (all attention modules of the encoder,
or of the decoder) and takes another number without an error, with wrong scores. So every
module is padded with zero heads to the largest count of its stack: a zero head adds nothing.
The width of an MLP may differ from layer to layer.
"""

from __future__ import annotations

from argparse import Namespace

import torch
from ctranslate2.converters import Converter
from ctranslate2.converters import fairseq as ct2_fairseq
from ctranslate2.specs import common_spec, transformer_spec
from fairseq.data import Dictionary
from torch import Tensor, nn

from neuroprune_fairseq.compact.cutting import compact
from neuroprune_fairseq.compact.modules import ConstantAttention, SelectedLinear

ACTIVATIONS = {
    "relu": common_spec.Activation.RELU,
    "gelu": common_spec.Activation.GELU,
    "gelu_accurate": common_spec.Activation.GELUTanh,
    "gelu_fast": common_spec.Activation.GELUTanh,
    "swish": common_spec.Activation.SWISH,
}


def unsupported(settings: Namespace) -> list[str]:
    """Flags of a model that the engine has no counterpart for."""
    refused = {
        "--activation-fn": getattr(settings, "activation_fn", "relu") not in ACTIVATIONS,
        "--adaptive-softmax-cutoff": getattr(settings, "adaptive_softmax_cutoff", None),
        "--no-token-positional-embeddings": settings.no_token_positional_embeddings,
        "--no-cross-attention": settings.no_cross_attention,
        "--cross-self-attention": settings.cross_self_attention,
        "--encoder-normalize-before without --decoder-normalize-before, or the reverse":
            settings.encoder_normalize_before != settings.decoder_normalize_before,
    }  # fmt: skip
    return [flag for flag, found in refused.items() if found]


def _attention_modules(stack: nn.Module) -> list[nn.Module]:
    names = ("self_attn", "encoder_attn")
    found = [getattr(layer, name, None) for layer in stack.layers for name in names]
    return [module for module in found if module is not None]


def stack_heads(stack: nn.Module) -> int:
    """The number of heads that every module of an encoder or decoder is padded to."""
    return max(1, *(getattr(module, "num_heads", 0) for module in _attention_modules(stack)))


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


class ModelConverter(Converter):
    """CTranslate2's converter for a fairseq model that is already loaded, compact or not."""

    def __init__(
        self, model: nn.Module, settings: Namespace, source: Dictionary, target: Dictionary
    ) -> None:
        """Take the model; what contributes nothing is cut out of a copy of it.

        Args:
            model: a fairseq Transformer, fp32, in evaluation mode.
            settings: its settings as saved in its checkpoint.
            source: source dictionary.
            target: target dictionary.
        """
        self._model, self._settings = compact(model), settings
        self._source, self._target = source, target

    def _spec(self) -> transformer_spec.TransformerSpec:
        settings = self._settings
        common = {
            "pre_norm": settings.encoder_normalize_before,
            "activation": ACTIVATIONS[settings.activation_fn],
            "layernorm_embedding": settings.layernorm_embedding,
        }
        encoder, decoder = self._model.encoder, self._model.decoder
        return transformer_spec.TransformerSpec(
            transformer_spec.TransformerEncoderSpec(
                len(encoder.layers),
                stack_heads(encoder),
                head_dim=settings.encoder_embed_dim // settings.encoder_attention_heads,
                no_final_norm=encoder.layer_norm is None,
                **common,
            ),
            transformer_spec.TransformerDecoderSpec(
                len(decoder.layers),
                stack_heads(decoder),
                head_dim=settings.decoder_embed_dim // settings.decoder_attention_heads,
                no_final_norm=decoder.layer_norm is None,
                project_in_out=decoder.project_in_dim is not None,
                **common,
            ),
        )

    @torch.no_grad()
    def _load(self) -> transformer_spec.TransformerSpec:
        """Fill the specification: what :class:`Converter` asks of its subclasses."""
        spec, settings, model = self._spec(), self._settings, self._model
        sizes = settings.encoder_embed_dim, settings.decoder_embed_dim
        _pad_stack_(model.encoder, sizes[0] // settings.encoder_attention_heads, sizes[0], sizes[0])
        _pad_stack_(model.decoder, sizes[1] // settings.decoder_attention_heads, sizes[1], sizes[0])
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # the converter takes numpy views
        ct2_fairseq.set_transformer_encoder(spec.encoder, model.encoder)
        ct2_fairseq.set_transformer_decoder(spec.decoder, model.decoder)
        spec.register_source_vocabulary(_vocabulary(self._source))
        spec.register_target_vocabulary(_vocabulary(self._target))
        # As fairseq does: a source sentence ends with </s>, a translation starts from it.
        spec.config.decoder_start_token = spec.config.eos_token
        spec.config.add_source_eos = True
        return spec


def _vocabulary(dictionary: Dictionary) -> list[str]:
    """The symbols in order; the engine's name for padding is <blank>."""
    return ["<blank>" if symbol == "<pad>" else symbol for symbol in dictionary.symbols]
