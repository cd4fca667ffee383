"""Models that are pruned at random: speed needs no trained weights."""

from __future__ import annotations

import torch
from torch import nn

from neuroprune_fairseq.method.pruning import zero_heads_, zero_neurons_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks


def prune_at_random_(model: nn.Module, heads: float, neurons: float) -> None:
    """Leave a share of the heads of every module and of the neurons of every MLP, in place."""
    generator = torch.Generator().manual_seed(1)
    for block in attention_blocks(model):
        cut = block.num_heads - max(1, round(heads * block.num_heads))
        zero_heads_(block, torch.randperm(block.num_heads, generator=generator)[:cut])
    for block in mlp_blocks(model):
        width = block.fc1.out_features
        zero_neurons_(
            block, torch.randperm(width, generator=generator)[max(1, round(neurons * width)) :]
        )
