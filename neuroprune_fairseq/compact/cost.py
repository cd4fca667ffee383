"""What a model costs: floating-point operations per token, counted from its sizes."""

from __future__ import annotations

from torch import nn

from neuroprune_fairseq.structure import AttentionBlock, attention_blocks, mlp_blocks


def linear_flops(*linears: nn.Linear) -> int:
    """Of linear layers, for one token."""
    return sum(2 * linear.in_features * linear.out_features for linear in linears)


def attention_flops(block: AttentionBlock, length: int) -> tuple[int, int]:
    """FLOPs of an attention module (on its key side, on its query side)."""
    keys = linear_flops(block.k_proj, block.v_proj)
    mixing = 4 * block.num_heads * block.head_dim * length  # q x k, then weights x v
    return keys, linear_flops(block.q_proj, block.out_proj) + mixing


def flops_per_token(model: nn.Module, length: int = 25) -> tuple[int, int]:
    """Floating-point operations (2 per multiply-add) of one source and of one target token.

    Counted are the linear layers, the mixing of attention and a decoder's output projection;
    embeddings, layer norms, softmaxes, beam search and heads on top of an encoder are not. A
    source token passes the encoder and the key and value projections of cross-attention, a
    target token the rest.

    Args:
        model: a fairseq Transformer. Of a model for several language pairs, the mean over them.
        length: number of tokens that attention looks at.

    Returns:
        (per source token, per target token); 0 without an encoder or without a decoder.
    """
    if pairs := getattr(model, "models", None):
        counts = [flops_per_token(of_pair, length) for of_pair in pairs.values()]
        source, target = (sum(side) // len(counts) for side in zip(*counts))
        return source, target
    flops = {"encoder": 0, "decoder": 0}
    for block in attention_blocks(model):
        keys, queries = attention_flops(block, length)
        flops["decoder" if block.kind.startswith("decoder") else "encoder"] += queries
        flops["decoder" if block.kind == "decoder_self" else "encoder"] += keys
    for mlp in mlp_blocks(model):
        flops[mlp.name.partition(".")[0]] += linear_flops(mlp.fc1, mlp.fc2)
    output = getattr(getattr(model, "decoder", None), "output_projection", None)
    if isinstance(output, nn.Linear):
        flops["decoder"] += linear_flops(output)
    return flops["encoder"], flops["decoder"]
