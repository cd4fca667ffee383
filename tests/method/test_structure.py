"""Blocks are found in every kind of fairseq Transformer, in forward order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroprune_fairseq.structure import attention_blocks, concatenated_heads, mlp_blocks


def test_18_attention_modules_and_12_mlps_in_forward_order(build_model):
    model = build_model()
    decoder = [
        f"decoder.layers.{i}.{name}" for i in range(6) for name in ("self_attn", "encoder_attn")
    ]
    expected = [f"encoder.layers.{i}.self_attn" for i in range(6)] + decoder
    assert [block.name for block in attention_blocks(model)] == expected
    assert [block.kind for block in attention_blocks(model)][5:8] == [
        *("encoder_self", "decoder_self", "decoder_cross")
    ]
    stacks = ("encoder", "decoder")
    layers = [f"{stack}.layers.{i}" for stack in stacks for i in range(6)]
    assert [block.name for block in mlp_blocks(model)] == layers


def test_a_block_holds_the_models_own_parameters(build_model):
    model = build_model()
    block = attention_blocks(model)[7]
    layer = model.decoder.layers[0]
    assert block.q_proj.weight is layer.encoder_attn.q_proj.weight
    assert block.out_proj.weight is layer.encoder_attn.out_proj.weight
    assert block.mlp.fc1.weight is layer.fc1.weight and block.mlp.fc2.weight is layer.fc2.weight
    assert (block.num_heads, block.head_dim) == (6, 8)


def test_wrapping_a_model_changes_nothing(build_model):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = build_model()
    names = [block.name for block in attention_blocks(model)]
    assert [block.name for block in attention_blocks(Wrapper(Wrapper(model)))] == names


def test_layer_drop_hides_no_block_and_draws_no_random_number(build_model):
    model = build_model(encoder_layerdrop=0.5, decoder_layerdrop=0.5).train()
    before = torch.get_rng_state()
    assert len(attention_blocks(model)) == 18 and len(mlp_blocks(model)) == 12
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arch", "attention", "heads"),
    [
        ("transformer_18x6_small", 18, 6),
        ("transformer_18x6_iwslt_de_en", 18, 6),
        ("transformer_iwslt_de_en", 18, 4),
        ("transformer_tiny", 6, 2),
    ],
)
def test_every_transformer_architecture_has_its_blocks(build_model, arch, attention, heads):
    blocks = attention_blocks(build_model(arch))
    assert len(blocks) == attention
    assert {block.num_heads for block in blocks} == {heads}
    assert all(block.head_dim % 8 == 0 for block in blocks)


def test_cross_attention_of_equal_widths_is_one_group_and_of_different_widths_two(build_model):
    equal = attention_blocks(build_model())[7]
    assert [len(group) for group in equal.input_groups] == [3]
    wide = build_model(share_all_embeddings=False, encoder_embed_dim=96, encoder_ffn_embed_dim=96)
    cross = attention_blocks(wide)[7]
    (query,), (key, value) = cross.input_groups
    assert query.shape == (48, 48) and key.shape == value.shape == (48, 96)


def test_concatenated_heads_holds_each_heads_rows_of_q_k_and_v(build_model):
    block = attention_blocks(build_model())[0]
    for head in range(6):
        rows = slice(8 * head, 8 * head + 8)
        expected = torch.cat([weight[rows].flatten() for weight in block.prunable_weights])
        assert torch.equal(concatenated_heads(block)[head], expected)
