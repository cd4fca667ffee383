"""Architectures of fairseq's model ``transformer`` with 18 attention modules of 6 heads.

Six encoder layers hold one attention module each (self), six decoder layers two
(self, cross): 6 + 2 x 6 = 18, the translation setting of the NeuroPrune paper.
They are architectures, not models, so that every tool that knows fairseq's
``transformer`` (generation, CTranslate2's converter) knows them too.
"""

from __future__ import annotations

from argparse import Namespace

from fairseq.models import register_model_architecture
from fairseq.models.transformer import base_architecture


def _transformer_18x6(args: Namespace, head_dim: int, ffn_embed_dim: int) -> None:
    """Fill in what the user left open: 6 + 6 layers, 6 heads of ``head_dim`` each."""
    num_heads = 6
    for stack in ("encoder", "decoder"):
        defaults = {
            f"{stack}_layers": 6,
            f"{stack}_attention_heads": num_heads,
            f"{stack}_embed_dim": num_heads * head_dim,
            f"{stack}_ffn_embed_dim": ffn_embed_dim,
        }
        for name, value in defaults.items():
            setattr(args, name, getattr(args, name, value))
    base_architecture(args)


@register_model_architecture("transformer", "transformer_18x6_iwslt_de_en")
def transformer_18x6_iwslt_de_en(args: Namespace) -> None:
    """The paper's translation model: embed_dim 480 (head_dim 80), FFN 1,024.

    The usual IWSLT14 width of 512 is no multiple of 6; 480 keeps head_dim a
    multiple of 16, which tensor cores want.
    """
    _transformer_18x6(args, head_dim=80, ffn_embed_dim=1024)


@register_model_architecture("transformer", "transformer_18x6_medium")
def transformer_18x6_medium(args: Namespace) -> None:
    """For measurements, the wider one: embed_dim 192 (head_dim 32), FFN 768."""
    _transformer_18x6(args, head_dim=32, ffn_embed_dim=768)


@register_model_architecture("transformer", "transformer_18x6_small")
def transformer_18x6_small(args: Namespace) -> None:
    """For measurements on a CPU: embed_dim 96 (head_dim 16), FFN 192."""
    _transformer_18x6(args, head_dim=16, ffn_embed_dim=192)


@register_model_architecture("transformer", "transformer_18x6_tiny")
def transformer_18x6_tiny(args: Namespace) -> None:
    """For tests and the quickstart: embed_dim 48 (head_dim 8), FFN 96."""
    _transformer_18x6(args, head_dim=8, ffn_embed_dim=96)
