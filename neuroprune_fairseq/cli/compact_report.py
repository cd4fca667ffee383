"""What compaction saved: parameters, bytes, FLOPs, heads and neurons, before and after."""

from __future__ import annotations

from torch import nn

from neuroprune_fairseq.compact.cutting import shapes
from neuroprune_fairseq.structure import AttentionBlock, attention_blocks, mlp_blocks

INPUTS = "input dimensions"


def _linear_flops(*linears: nn.Linear) -> int:
    return sum(2 * linear.in_features * linear.out_features for linear in linears)


def _attention_flops(block: AttentionBlock, length: int) -> tuple[int, int]:
    """FLOPs of an attention module (on its key side, on its query side)."""
    keys = _linear_flops(block.k_proj, block.v_proj)
    mixing = 4 * block.num_heads * block.head_dim * length  # q x k, then weights x v
    return keys, _linear_flops(block.q_proj, block.out_proj) + mixing


def flops_per_token(model: nn.Module, length: int = 25) -> tuple[int, int]:
    """Floating-point operations (2 per multiply-add) of one source and of one target token.

    Counted are the linear layers, the mixing of attention and the output projection;
    embeddings, layer norms, softmaxes and beam search are not. A source token passes the
    encoder and the key and value projections of cross-attention, a target token the rest.

    Args:
        model: a fairseq Transformer.
        length: number of tokens that attention looks at.

    Returns:
        (per source token, per target token).
    """
    source = target = 0
    for block in attention_blocks(model):
        keys, queries = _attention_flops(block, length)
        if block.kind == "encoder_self":
            source += keys + queries
        elif block.kind == "decoder_cross":
            source, target = source + keys, target + queries
        else:
            target += keys + queries
    for block in mlp_blocks(model):
        flops = _linear_flops(block.fc1, block.fc2)
        if block.name.startswith("encoder"):
            source += flops
        else:
            target += flops
    if model.decoder.output_projection is not None:
        target += _linear_flops(model.decoder.output_projection)
    return source, target


def sizes(model: nn.Module) -> dict[str, int]:
    """Every number of the table, by the label of its row."""
    parameters = list(model.parameters())
    source, target = flops_per_token(model)
    table = {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "FLOPs per source token": source,
        "FLOPs per target token": target,
    }
    read = {block.name: block.q_proj.in_features for block in attention_blocks(model)}
    for name, size in shapes(model).items():
        if name.endswith("attn"):
            table[f"{name} heads"] = size
            table[f"{name} {INPUTS}"] = read.get(name, 0)
        elif isinstance(size, int):
            table[f"{name} neurons"] = size
    return table


def format_table(before: nn.Module, after: nn.Module) -> str:
    """The table that neuroprune-compact prints.

    Args:
        before: the model as it was.
        after: the compact model.
    """
    old, new = sizes(before), sizes(after)
    width = max(map(len, old))
    lines = [f"{'':{width}}  {'before':>14}  {'after':>14}  {'share':>6}"]
    for label, number in old.items():
        if label.endswith(INPUTS) and (new[label] == number or not new[label]):
            continue  # nearly always all dimensions are read
        share = f"{100 * new[label] / max(1, number):.0f} %"
        lines.append(f"{label:{width}}  {number:>14,}  {new[label]:>14,}  {share:>6}")
    return "\n".join(lines)
