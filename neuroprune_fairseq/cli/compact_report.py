"""What compaction saved: parameters, bytes, FLOPs, heads and neurons, before and after."""

from __future__ import annotations

from torch import nn

from neuroprune_fairseq.compact.cost import flops_per_token
from neuroprune_fairseq.compact.cutting import shapes
from neuroprune_fairseq.structure import all_attention, attention_blocks

INPUTS = "input dimensions"


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
    read = {block.name: 0 for block in all_attention(model)}
    read.update((block.name, block.q_proj.in_features) for block in attention_blocks(model))
    for name, size in shapes(model).items():
        if name in read:
            table[f"{name} heads"] = size
            table[f"{name} {INPUTS}"] = read[name]
        else:
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
        if "FLOPs" in label and not number:
            continue  # an encoder or a decoder alone
        share = f"{100 * new[label] / max(1, number):.0f} %"
        lines.append(f"{label:{width}}  {number:>14,}  {new[label]:>14,}  {share:>6}")
    return "\n".join(lines)
