"""The modules that a compact model has in the place of fairseq's.

They name every argument of what they replace: torch.jit.script compiles no ``**ignored``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuroprune_fairseq.structure import LayerBlock

# What fairseq's decoder remembers from token to token.
State = dict[str, dict[str, Tensor | None]]


class SelectedLinear(nn.Linear):
    """A linear layer that reads only some of its input's dimensions.

    Its weight has no columns for the others. The indices are no state: they are saved
    with the sizes of a compact model.
    """

    def __init__(self, linear: nn.Linear, kept: Tensor) -> None:
        """Take over a linear layer.

        Args:
            linear: the layer to narrow, may be narrowed already.
            kept: (n,) long, which of its columns to keep.
        """
        bias = linear.bias
        super().__init__(len(kept), linear.out_features, bias is not None, device="meta")
        weight = linear.weight
        self.weight = nn.Parameter(weight.data[:, kept].contiguous(), weight.requires_grad)
        self.bias = bias
        narrow = isinstance(linear, SelectedLinear)
        self.full_in_features = linear.full_in_features if narrow else linear.in_features
        inputs = linear.inputs[kept] if narrow else kept.clone()
        self.register_buffer("inputs", inputs, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Apply to (..., full_in_features)."""
        return super().forward(input.index_select(-1, self.inputs))

    def full_weight(self) -> Tensor:
        """The weight with its zero columns: (out_features, full_in_features)."""
        full = self.weight.new_zeros(self.out_features, self.full_in_features)
        return full.index_copy_(1, self.inputs, self.weight.detach())


def even_attention(query: Tensor, key: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Attention weights that tell nothing: the same for every token of a sentence.

    Args:
        query: (tgt_len, batch, embed_dim).
        key: (src_len, batch or batch / beam, key_dim).
        key_padding_mask: (batch, src_len), True = padding.

    Returns:
        (batch, tgt_len, src_len).
    """
    real = query.new_ones(key.shape[1], key.shape[0])
    if key_padding_mask is not None:
        real = real.masked_fill(key_padding_mask.to(torch.bool), 0.0)
    even = real / real.sum(dim=1, keepdim=True)
    # BART's beam search gives the keys of a sentence once, not once for every hypothesis.
    even = even.repeat_interleave(query.shape[1] // key.shape[1], dim=0)
    return even.unsqueeze(1).expand(-1, query.shape[0], -1)


class ConstantAttention(nn.Module):
    """What is left of a MultiheadAttention without heads: the bias of its out_proj.

    It has no projections, so ``structure.attention_blocks`` does not list it: nothing in
    it can be penalised or pruned any more. No incremental state is needed either.
    """

    def __init__(self, bias: Tensor, requires_grad: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: State | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The bias at every position; even attention weights where a caller wants weights.

        Args:
            query: (tgt_len, batch, embed_dim).
            key: (src_len, batch or batch / beam, key_dim).
            value: as key.
            key_padding_mask: (batch, src_len), True = padding.
            incremental_state: not used, as static_kv, attn_mask and before_softmax.
            need_weights: return attention weights.
            static_kv: not used.
            attn_mask: not used.
            before_softmax: not used.
            need_head_weights: return them with a leading dimension of heads.

        Returns:
            (tgt_len, batch, embed_dim), and (batch, tgt_len, src_len) or None.
        """
        weights: Tensor | None = None
        if need_weights or need_head_weights:
            assert key is not None
            even = even_attention(query, key, key_padding_mask)
            weights = even.unsqueeze(0) if need_head_weights else even
        return self.bias.expand_as(query), weights

    def _get_input_buffer(self, incremental_state: State | None) -> dict[str, Tensor | None]:
        """Asked for by fairseq's decoder layer: there is nothing to remember."""
        nothing: dict[str, Tensor | None] = {}
        return nothing

    def _set_input_buffer(
        self, incremental_state: State, buffer: dict[str, Tensor | None]
    ) -> State:
        """Asked for by fairseq's decoder layer: nothing is remembered."""
        return incremental_state


class RemovedLayer(nn.Module):
    """What is left of a layer at its index: the residual path alone.

    It has no parameters and no blocks. The sizes of what was there are kept, so that it still
    counts as heads and weights that are zero.
    """

    encoder_attn = None  # what BART's beam search asks a layer for

    def __init__(self, layer: LayerBlock) -> None:
        """Take the place of a layer.

        Args:
            layer: as it was, whole or cut already.
        """
        super().__init__()
        self.return_fc = getattr(layer.module, "return_fc", False)
        names = {block.name.rpartition(".")[2]: block for block in layer.attention}
        self.full_attention = {n: (b.full_num_heads, b.full_size) for n, b in names.items()}
        self.full_mlp = layer.mlp.full_ffn_embed_dim, layer.mlp.full_size
        self.attends_encoder = "encoder_attn" in names
        self.train(layer.module.training)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Asked for by fairseq's encoder as it loads: there is nothing to upgrade."""


class RemovedEncoderLayer(RemovedLayer):
    """A layer of an encoder that is gone."""

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The input, as the layer would give its output.

        Args:
            x: (length, batch, embed_dim).
            encoder_padding_mask: not used.
            attn_mask: not used.

        Returns:
            x; with return_fc (x, the zeros that its MLP put out).
        """
        if self.return_fc and not torch.jit.is_scripting():
            both: Any = x, x.new_zeros(x.shape)
            return both  # fairseq's encoder looks which of the two it is
        return x


class RemovedDecoderLayer(RemovedLayer):
    """A layer of a decoder that is gone."""

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
        incremental_state: State | None = None,
        prev_self_attn_state: list[Tensor] | None = None,
        prev_attn_state: list[Tensor] | None = None,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, list[Tensor] | None]:
        """The input, as the layer would give its output.

        Args:
            x: (length, batch, embed_dim).
            encoder_out: (src_len, batch or batch / beam, encoder_dim).
            encoder_padding_mask: (batch, src_len), True = padding.
            incremental_state: not used.
            prev_self_attn_state: not used.
            prev_attn_state: not used.
            self_attn_mask: not used.
            self_attn_padding_mask: not used.
            need_attn: a layer with cross-attention gives even attention weights.
            need_head_weights: with a leading dimension of heads.

        Returns:
            x, attention weights or None, None.
        """
        weights: Tensor | None = None
        if self.attends_encoder and encoder_out is not None and (need_attn or need_head_weights):
            even = even_attention(x, encoder_out, encoder_padding_mask)
            weights = even.unsqueeze(0) if need_head_weights else even
        return x, weights, None


def removed_layer(layer: LayerBlock) -> RemovedLayer:
    """What takes the place of a layer of an encoder or a decoder."""
    of_decoder = hasattr(layer.module, "encoder_attn")
    return RemovedDecoderLayer(layer) if of_decoder else RemovedEncoderLayer(layer)
