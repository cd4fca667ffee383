"""The modules that a compact model has in the place of fairseq's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


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
        need_weights: bool = True,
        need_head_weights: bool = False,
        **ignored: object,
    ) -> tuple[Tensor, Tensor | None]:
        """The bias at every position; even attention weights where a caller wants weights.

        Args:
            query: (tgt_len, batch, embed_dim).
            key: (src_len, batch or batch / beam, key_dim).
            value: as key.
            key_padding_mask: (batch, src_len), True = padding.
            need_weights: return attention weights.
            need_head_weights: return them with a leading dimension of heads.
            ignored: what else MultiheadAttention takes.

        Returns:
            (tgt_len, batch, embed_dim), and (batch, tgt_len, src_len) or None.
        """
        weights: Any = None
        if need_weights or need_head_weights:
            assert key is not None
            real = query.new_ones(key.shape[1], key.shape[0])
            if key_padding_mask is not None:
                real = real.masked_fill(key_padding_mask.bool(), 0.0)
            even = real / real.sum(dim=1, keepdim=True)
            # BART's beam search gives the keys of a sentence once, not once for every hypothesis.
            even = even.repeat_interleave(query.shape[1] // key.shape[1], dim=0)
            weights = even.unsqueeze(1).expand(-1, query.shape[0], -1)
            weights = weights.unsqueeze(0) if need_head_weights else weights
        return self.bias.expand_as(query), weights

    def _get_input_buffer(self, incremental_state: object) -> dict[str, Tensor]:
        """Asked for by fairseq's decoder layer: there is nothing to remember."""
        return {}
