"""Edits and half-precision training, with fairseq's own optimizers; fp16 emulated on the CPU."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import AMPOptimizer, FP16Optimizer, MemoryEfficientFP16Optimizer

from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import model_of
from neuroprune_fairseq.method.pruning import eliminate_redundant_heads, pruned_heads
from neuroprune_fairseq.method.zero_mask import ZeroMask
from neuroprune_fairseq.plugin.precision import master_weights
from neuroprune_fairseq.structure import attention_blocks

FLAT, SHAPED, BF16 = "--fp16", "--fp16 --fp16-no-flatten-grads", "--bf16"
IN_PLACE = ["--memory-efficient-fp16", "--memory-efficient-bf16", "--amp"]
LAYERS = {"encoder_layers": 1, "decoder_layers": 1}
SMALL = "--encoder-layers 1 --decoder-layers 1 --fp16-init-scale 1".split()


@pytest.fixture(autouse=True)
def _no_gpu_needed(monkeypatch):
    """fairseq flattens the fp32 copies of fp16 weights on the current GPU, here on the CPU."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)


def build_optimizer(model, flags):
    """fairseq's optimizer of a model, which is cast as fairseq casts it."""
    arguments = ["data", "--optimizer", "adam", "--lr", "1e-2", "--weight-decay", "0.01"]
    arguments += [*SMALL, *flags.split(), "--arch", "transformer", "--task", "translation"]
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    if "amp" not in flags:
        model.to(torch.bfloat16 if "bf16" in flags else torch.float16)
    kind = {"memory": MemoryEfficientFP16Optimizer, "amp": AMPOptimizer}
    kind = next((found for name, found in kind.items() if name in flags), FP16Optimizer)
    return kind.build_optimizer(convert_namespace_to_omegaconf(args), list(model.parameters()))


def step(model, optimizer, generator, pruned=()):
    """An update with any gradient, but zero where a pruned head's is."""
    optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    for block, heads in pruned:
        for projection in (block.q_proj, block.k_proj, block.v_proj):
            block.head_rows(projection.weight.grad)[heads] = 0
            block.head_rows(projection.bias.grad)[heads] = 0
        block.out_proj.weight.grad.view(-1, block.num_heads, block.head_dim)[:, heads] = 0
    optimizer._needs_sync = True  # as after a backward pass
    optimizer.step()


def full_weights(optimizer, model):
    """Copies of all weights in full precision."""
    with master_weights(optimizer):
        return [parameter.detach().float().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("flags", [FLAT, SHAPED, BF16, *IN_PLACE])
def test_a_merge_survives_later_updates_and_pruned_heads_stay_zero(build_model, flags):
    model = build_model(**LAYERS)
    optimizer = build_optimizer(model, flags)
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    step(model, optimizer, generator)  # momentum, and master copies that differ from the model
    block = attention_blocks(model)[0]
    number = next(n for n, p in enumerate(model.parameters()) if p is block.out_proj.weight)
    sums = full_weights(optimizer, model)[number].view(48, 6, 8).sum(dim=1)
    with master_weights(optimizer):
        has_copies = flags in (FLAT, SHAPED, BF16)
        assert block.out_proj.weight.dtype == (torch.float32 if has_copies else dtype)
        eliminate_redundant_heads(model, threshold=100.0)
    assert block.out_proj.weight.dtype == dtype
    merged = full_weights(optimizer, model)[number].view(48, 6, 8)[:, 5]
    precision = 1e-6 if has_copies else torch.finfo(dtype).eps
    assert torch.allclose(merged, sums, rtol=4 * precision, atol=4 * precision)
    held, pruned = ZeroMask(model), [(b, torch.arange(5)) for b in attention_blocks(model)]
    for _ in range(20):
        step(model, optimizer, generator, pruned)
        with master_weights(optimizer):
            held.hold_()
    assert all(pruned_heads(b).tolist() == [0, 1, 2, 3, 4] for b in attention_blocks(model))
    after = full_weights(optimizer, model)[number].view(48, 6, 8)
    assert after[:, :5].abs().max() == 0
    # 20 updates at this learning rate move a weight by about 0.2 at most.
    assert (after[:, 5] - sums).abs().max() <= 0.3


@pytest.mark.parametrize("flags", [FLAT, SHAPED, BF16])
def test_untouched_weights_keep_their_full_precision(build_model, flags):
    model = build_model(**LAYERS)
    optimizer = build_optimizer(model, flags)
    with master_weights(optimizer), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-6)  # below what half precision can hold
    before = full_weights(optimizer, model)
    assert any(not torch.equal(b, p.float()) for b, p in zip(before, model.parameters()))
    step(model, optimizer, torch.Generator().manual_seed(1))
    between = full_weights(optimizer, model)
    assert all(torch.equal(a, b) for a, b in zip(between, full_weights(optimizer, model)))


def test_an_optimizer_without_master_copies_is_left_alone(build_model):
    model = build_model()
    pointers = [p.data_ptr() for p in model.parameters()]
    with master_weights(SimpleNamespace()):
        assert [p.data_ptr() for p in model.parameters()] == pointers
    with master_weights(None):
        assert [p.data_ptr() for p in model.parameters()] == pointers


def load(path):
    return model_of(read_checkpoint(path), str(path))


def kept_columns(path):
    """What head 5 of the first module puts out: (embed_dim, head_dim)."""
    return attention_blocks(load(path))[0].head_columns()[:, 5].detach()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [FLAT, SHAPED, BF16, *IN_PLACE])
def test_training_prunes_merges_and_measures_in_every_precision(run_train, tmp_path, flags):
    common = [*SMALL, *flags.split(), "--attn-penalty-weight", 0.01, "--mlp-penalty-weight", 0.1]
    run_train("--max-epoch", 1, *common, name="dense")
    run_train("--max-epoch", 2, *common, "--head-distance-threshold", 100)
    for name in ("checkpoint1.pt", "checkpoint_last.pt"):
        blocks = attention_blocks(load(tmp_path / "run" / name))
        assert all(pruned_heads(block).tolist() == [0, 1, 2, 3, 4] for block in blocks)
    lines = (tmp_path / "run" / "neuroprune.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert all(math.isfinite(line[name]) and line[name] > 0 for name in ("r_attn", "r_mlp"))
    # The two runs are the same up to the end of the first epoch.
    dense = attention_blocks(load(tmp_path / "dense" / "checkpoint1.pt"))[0]
    sums = dense.head_columns().detach().sum(dim=1)
    merged = kept_columns(tmp_path / "run" / "checkpoint1.pt")
    assert torch.allclose(merged, sums, atol=0.05)
    later = kept_columns(tmp_path / "run" / "checkpoint_last.pt")
    assert (later - merged).norm() < 0.2 * merged.norm()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [FLAT, BF16, "--memory-efficient-fp16"])
@pytest.mark.parametrize(
    ("pruner", "goal"),
    [
        ("neuroprune", "--target-heads 5 --target-sparsity 0.6 --target-update 6"),
        ("dsp", "--heads-to-keep 5 --cooldown-updates 6"),
    ],
)
def test_targets_and_gates_end_with_exact_zeros_in_every_precision(
    run_train, tmp_path, flags, pruner, goal
):
    criterion = "label_smoothed_cross_entropy"
    common = [*SMALL, *flags.split(), *goal.split(), "--no-epoch-checkpoints"]
    run_train("--max-epoch", 1, "--pruner", pruner, *common, criterion=criterion)
    model = load(tmp_path / "run" / "checkpoint_last.pt")
    blocks = attention_blocks(model)
    assert sum(len(pruned_heads(block)) for block in blocks) == 18 - 5
    line = json.loads((tmp_path / "run" / "neuroprune.jsonl").read_text())
    assert line["heads_kept"] == 5
    if pruner == "neuroprune":
        assert line["total_sparsity"] == pytest.approx(0.6, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [FLAT, BF16, "--amp"])
def test_the_proximal_solver_makes_exact_zeros_through_the_master_copies(
    run_train, tmp_path, flags
):
    solver = "--penalty-solver proximal --mlp-penalty-weight 20 --attn-penalty-weight 1".split()
    run_train("--max-epoch", 2, *SMALL, *flags.split(), *solver)
    line = json.loads((tmp_path / "run" / "neuroprune.jsonl").read_text().splitlines()[-1])
    model = load(tmp_path / "run" / "checkpoint_last.pt")
    zeros = sum(int((w == 0).sum()) for b in attention_blocks(model) for w in b.prunable_weights)
    assert line["attn_sparsity"] > 0 and zeros > 0
