"""The benchmark measures the model that it names, and the memory that a step takes."""

from __future__ import annotations

import torch

from benchmarks.real_size import VOCABULARY, build, make_data, watched
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks, prunable_weights


def test_the_model_has_the_sizes_that_are_claimed(tmp_path):
    make_data(tmp_path, VOCABULARY)
    with torch.device("meta"):
        _, model = build(tmp_path, scale=1)
    blocks = attention_blocks(model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 312.8
    assert sum(block.num_heads for block in blocks) == 288
    prunable = prunable_weights([*blocks, *mlp_blocks(model)])
    assert round(sum(weight.numel() for weight in prunable) / 1e6, 1) == 207.6


def test_memory_that_a_step_gives_back_is_counted():
    measured = watched(lambda: torch.ones(64 << 20, dtype=torch.uint8).max())
    assert 0.05 <= measured["extra_gib"] <= 0.2
