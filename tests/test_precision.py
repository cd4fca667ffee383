"""Edits reach the fp32 master copies of half-precision training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from neuroprune_fairseq.precision import master_weights
from neuroprune_fairseq.pruning import Pruned, eliminate_redundant_heads, pruned_heads
from neuroprune_fairseq.structure import attention_blocks


class MasterCopyAdam:
    """Adam on fp32 copies that overwrites a half-precision model, as fairseq's does."""

    def __init__(self, model, flat):
        self.fp16_params = list(model.parameters())
        copies = [p.data.float().flatten() for p in self.fp16_params]
        if flat:
            self.fp32_params = {None: torch.nn.Parameter(torch.cat(copies))}
            self.masters = [self.fp32_params[None]]
        else:
            shaped = [c.view_as(p) for c, p in zip(copies, self.fp16_params)]
            self.fp32_params = [torch.nn.Parameter(c) for c in shaped]
            self.masters = self.fp32_params
        self.adam = torch.optim.Adam(self.masters, lr=1e-2, weight_decay=0.01)

    def step(self):
        gradients = [p.grad.float().flatten() for p in self.fp16_params]
        flat = torch.cat(gradients)
        if len(self.masters) == 1:
            self.masters[0].grad = flat
        else:
            for master, gradient in zip(self.masters, gradients):
                master.grad = gradient.view_as(master)
        self.adam.step()
        everything = torch.cat([m.data.flatten() for m in self.masters])
        sizes = [p.numel() for p in self.fp16_params]
        for parameter, values in zip(self.fp16_params, everything.split(sizes)):
            parameter.data.copy_(values.view_as(parameter))


def random_gradients_(model, generator, pruned):
    """Any gradient, but zero where a pruned head's is."""
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    for block, heads in pruned:
        for projection in (block.q_proj, block.k_proj, block.v_proj):
            block.head_rows(projection.weight.grad)[heads] = 0
            block.head_rows(projection.bias.grad)[heads] = 0
        block.out_proj.weight.grad.view(-1, block.num_heads, block.head_dim)[:, heads] = 0


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_merge_survives_master_copies_and_pruned_heads_stay_zero(build_model, flat, dtype):
    model = build_model().to(dtype)
    optimizer = MasterCopyAdam(model, flat)
    generator = torch.Generator().manual_seed(1)
    random_gradients_(model, generator, [])
    optimizer.step()  # momentum, and master copies that differ from the rounded model
    block = attention_blocks(model)[0]
    masters = {id(p): m.clone() for p, m in _pairs(model, optimizer)}
    with master_weights(optimizer):
        assert block.out_proj.weight.dtype == torch.float32
        eliminate_redundant_heads(model, threshold=100.0)
    assert block.out_proj.weight.dtype == dtype
    merged = masters[id(block.out_proj.weight)].view(48, 6, 8).sum(dim=1)
    held, pruned = Pruned(model), [(b, torch.arange(5)) for b in attention_blocks(model)]
    after = dict((id(p), m) for p, m in _pairs(model, optimizer))[id(block.out_proj.weight)]
    assert torch.allclose(after.view(48, 6, 8)[:, 5], merged, atol=1e-6), "the sum is made in fp32"
    for _ in range(50):
        random_gradients_(model, generator, pruned)
        optimizer.step()
        with master_weights(optimizer):
            held.zero_()
    assert all(pruned_heads(b).tolist() == [0, 1, 2, 3, 4] for b in attention_blocks(model))
    _, master = next((p, m) for p, m in _pairs(model, optimizer) if p is block.out_proj.weight)
    assert master.view(48, 6, 8)[:, :5].abs().max() == 0


def _pairs(model, optimizer):
    sizes = [p.numel() for p in model.parameters()]
    flat = torch.cat([m.data.flatten() for m in optimizer.masters])
    return [(p, v.view_as(p)) for p, v in zip(model.parameters(), flat.split(sizes))]


def test_untouched_weights_keep_their_full_precision(build_model):
    model = build_model().half()
    optimizer = MasterCopyAdam(model, flat=False)
    for master in optimizer.masters:
        master.data.add_(1e-6)  # below what fp16 can hold
    before = [master.data.clone() for master in optimizer.masters]
    with master_weights(optimizer):
        pass
    assert all(torch.equal(m.data, b) for m, b in zip(optimizer.masters, before))


def test_an_optimizer_without_master_copies_is_left_alone(build_model):
    model = build_model()
    pointers = [p.data_ptr() for p in model.parameters()]
    with master_weights(SimpleNamespace()):
        assert [p.data_ptr() for p in model.parameters()] == pointers
    with master_weights(None):
        assert [p.data_ptr() for p in model.parameters()] == pointers
