"""What torch makes of compact models: TorchScript, and int8 weights."""

from __future__ import annotations

import copy

import pytest
import torch
from fairseq.modules import MultiheadAttention

from neuroprune_fairseq.compact import compact
from neuroprune_fairseq.compact.modules import ConstantAttention, RemovedLayer
from neuroprune_fairseq.method.pruning import zero_heads_
from neuroprune_fairseq.structure import attention_blocks, layer_blocks, mlp_blocks


@pytest.fixture
@torch.no_grad()
def pruned(build_model):
    """A model with modules cut, constant, and layers that are gone."""
    depths = {"encoder_layers": 3, "decoder_layers": 3}
    model = build_model(encoder_normalize_before=True, decoder_normalize_before=True, **depths)
    for number, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(2 + 4 * (number % 2)))  # two heads, or all six
    for block in mlp_blocks(model):
        block.fc1.weight[:9] = 0.0
    for layer in layer_blocks(model)[1::3]:
        for parameter in layer.module.parameters():
            parameter.zero_()
    return model


@torch.no_grad()
def test_a_compact_model_is_compiled_by_torchscript_and_computes_the_same(pruned, sample):
    smaller = compact(pruned)
    for kind in (ConstantAttention, RemovedLayer):
        assert any(isinstance(module, kind) for module in smaller.modules())
    compiled = torch.jit.script(smaller)
    inputs = tuple(sample["net_input"].values())
    expected = pruned(*inputs)
    for found in (smaller(*inputs), compiled(*inputs)):
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(compiled(*inputs)[1]["attn"], smaller(*inputs)[1]["attn"])


@torch.no_grad()
def test_a_compiled_decoder_goes_on_token_by_token_as_the_model_does(pruned, sample):
    smaller = compact(pruned)
    compiled, found = torch.jit.script(smaller), []
    tokens, lengths, previous = sample["net_input"].values()
    for model in (smaller, compiled):
        state: dict[str, dict[str, torch.Tensor | None]] = {}
        outside = model.encoder(tokens, lengths)
        steps = [model.decoder(previous[:, :end], outside, state)[0] for end in range(1, 5)]
        found.append(torch.cat(steps, dim=1))
    torch.testing.assert_close(*found)


@torch.no_grad()
def test_int8_weights_work_where_attention_calls_its_projections(pruned, sample):
    for model in (pruned, compact(pruned)):
        model = copy.deepcopy(model)
        expected = model(**sample["net_input"])[0]
        for module in model.modules():
            if isinstance(module, MultiheadAttention):
                module.skip_embed_dim_check = True
        smaller = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
        first = smaller.decoder.layers[0].fc1
        assert isinstance(first, torch.ao.nn.quantized.dynamic.Linear)
        found = smaller(**sample["net_input"])[0]
        assert (found - expected).abs().max() < 0.1 * expected.abs().max()
