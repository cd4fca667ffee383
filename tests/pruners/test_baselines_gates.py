"""The gate mechanism, and what the methods compute gates from."""

from __future__ import annotations

import copy

import pytest
import torch

from neuroprune_fairseq.method.pruning import pruned_heads
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.pruners.gates import Gates, fold_, living_heads
from neuroprune_fairseq.pruners.hard_concrete import (
    noiseless_gates,
    open_probability,
    sampled_gates,
)
from neuroprune_fairseq.pruners.michel import normalised_importance
from neuroprune_fairseq.pruners.top_k import straight_through_top_k
from neuroprune_fairseq.structure import attention_blocks

# Without dropout, so that training mode and evaluation mode compute the same.
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def some_gates(seed=4):
    """A gate for each of 108 heads, a third of them closed."""
    gates = torch.rand(108, generator=torch.Generator().manual_seed(seed))
    return gates.where(gates > 1 / 3, 0.0)


def logits(model, sample):
    return model(**sample["net_input"])[0]


def loss_of(model, sample):
    target = sample["target"].flatten()
    return torch.nn.functional.cross_entropy(
        logits(model, sample).flatten(0, 1), target, reduction="sum"
    )


@pytest.mark.parametrize("training", [True, False])
def test_open_gates_change_neither_output_nor_state_dict(build_model, sample, training):
    model = build_model(**NO_DROPOUT).train(training)
    before, keys = logits(model, sample), list(model.state_dict())
    Gates(model)
    torch.testing.assert_close(logits(model, sample), before)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("training", [True, False])
def test_folding_changes_no_output(build_model, sample, training):
    model = build_model(**NO_DROPOUT).train(training)
    gates = Gates(model)
    (gates.use if training else gates.evaluate_with)(some_gates())
    gated = logits(model, sample)
    gates.remove()
    fold_(model, some_gates())
    torch.testing.assert_close(logits(model, sample), gated)
    assert measure(model)["heads_kept"] == int(some_gates().gt(0).sum())


def test_training_and_evaluation_have_gates_of_their_own(build_model, sample):
    model = build_model(**NO_DROPOUT)
    plain = logits(model, sample)
    Gates(model).use(some_gates())
    torch.testing.assert_close(logits(model.eval(), sample), plain)
    assert not torch.allclose(logits(model.train(), sample), plain, atol=1e-3)


def test_a_closed_gate_equals_a_zeroed_head_in_its_module_only(build_model, sample):
    model = build_model()
    for place, block in enumerate(attention_blocks(model)):
        closed = torch.ones(108)
        closed[6 * place + 2] = 0.0
        gates = Gates(model)
        gates.evaluate_with(closed)
        gated = logits(model, sample)
        gates.remove()
        columns, saved = block.head_columns(), block.out_proj.weight.detach().clone()
        with torch.no_grad():
            columns[:, 2] = 0.0
            torch.testing.assert_close(logits(model, sample), gated)
            block.out_proj.weight.copy_(saved)


def test_gates_hold_in_step_by_step_decoding(build_model, sample):
    model = build_model()
    gates = Gates(model)
    gates.evaluate_with(some_gates())
    whole = logits(model, sample)
    inputs = sample["net_input"]
    encoded = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
    state, tokens = {}, inputs["prev_output_tokens"]
    steps = [
        model.decoder(tokens[:, : i + 1], encoder_out=encoded, incremental_state=state)[0]
        for i in range(tokens.shape[1])
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


def test_the_gradient_of_a_gate_equals_finite_differences(build_model, sample):
    model = build_model(**NO_DROPOUT, activation_fn="gelu").double().train()  # no kinks
    gates = Gates(model)
    gates.use(torch.ones(108))
    loss_of(model, sample).backward()
    gradient = gates.take_gradient()

    @torch.no_grad()
    def loss_with(head, change):
        gates.use(torch.ones(108).index_fill_(0, torch.tensor([head]), 1.0 + change))
        return loss_of(model, sample).item()

    # A wide step with a five-point formula: fairseq's softmax rounds to fp32.
    h = 2.0**-5
    for head in range(0, 108, 5):  # encoder, decoder self and cross attention
        near = loss_with(head, h) - loss_with(head, -h)
        far = loss_with(head, 2 * h) - loss_with(head, -2 * h)
        difference = (8 * near - far) / (12 * h)
        assert gradient[head].item() == pytest.approx(difference, rel=2e-3, abs=1e-3)


def test_the_weights_get_the_gradient_of_the_folded_model(build_model, sample):
    gated, folded = (build_model(**NO_DROPOUT).train() for _ in range(2))
    Gates(gated).use(torch.full((108,), 0.5))
    fold_(folded, torch.full((108,), 0.5))
    for model in (gated, folded):
        loss_of(model, sample).backward()
    for ours, theirs in zip(attention_blocks(gated), attention_blocks(folded)):
        torch.testing.assert_close(
            ours.q_proj.weight.grad, theirs.q_proj.weight.grad, atol=1e-4, rtol=1e-3
        )
        scaled = theirs.out_proj.weight.grad * 0.5
        torch.testing.assert_close(ours.out_proj.weight.grad, scaled, atol=1e-4, rtol=1e-3)


def test_gradients_add_up_over_micro_batches_until_they_are_taken(build_model, sample):
    model = build_model(**NO_DROPOUT).train()
    gates = Gates(model)
    gates.use(torch.ones(108))
    loss_of(model, sample).backward()
    once = gates.take_gradient()
    for _ in range(2):
        loss_of(model, sample).backward()
    torch.testing.assert_close(gates.take_gradient(), 2 * once)
    assert gates.take_gradient().eq(0).all()


def test_a_half_precision_model_keeps_its_type_and_an_fp32_gate_gradient(build_model, sample):
    model = build_model(**NO_DROPOUT).train()
    gates = Gates(model)
    gates.use(some_gates())
    loss_of(model, sample).backward()
    exact = gates.take_gradient()
    model.bfloat16()
    assert logits(model, sample).dtype == torch.bfloat16
    loss_of(model, sample).backward()
    rough = gates.take_gradient()
    assert (rough - exact).norm() < 0.1 * exact.norm()
    assert not torch.equal(rough, rough.bfloat16().double()), "summed in bfloat16"


def test_activation_checkpoints_give_the_same_gradient(build_model, sample):
    gradients = []
    for checkpointed in (False, True):
        model = build_model(**NO_DROPOUT, checkpoint_activations=checkpointed).train()
        gates = Gates(model)
        gates.use(some_gates())
        loss_of(model, sample).backward()
        gradients.append(gates.take_gradient())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_removing_the_gates_leaves_no_trace(build_model, sample):
    model = build_model()
    before = logits(model, sample)
    gates = Gates(model)
    gates.evaluate_with(some_gates())
    gates.remove()
    assert torch.equal(logits(model, sample), before)
    for block in attention_blocks(model):
        assert not block.out_proj._forward_pre_hooks
        assert block.module.skip_embed_dim_check is False


def test_a_gated_model_can_be_copied_as_ema_does(build_model, sample):
    model = build_model(**NO_DROPOUT).train()
    gates = Gates(model)
    scores = torch.zeros(108, dtype=torch.float64, requires_grad=True)
    gates.use(straight_through_top_k(scores, 36))
    loss_of(model, sample).backward()
    shadow = copy.deepcopy(model)
    torch.testing.assert_close(logits(shadow, sample), logits(model, sample))


def test_living_heads_are_told_in_forward_order(build_model):
    model = build_model()
    fold_(model, some_gates())
    assert torch.equal(living_heads(model), some_gates() > 0)
    closed = [
        (block.name, head) for block in attention_blocks(model) for head in pruned_heads(block)
    ]
    assert len(closed) == int(some_gates().eq(0).sum())


def test_hard_concrete_gates_equal_numbers_worked_by_hand():
    # sigmoid(0) = 1/2 -> 1.2 / 2 - 0.1 = 0.5; sigmoid(log 3) = 3/4 -> 0.8;
    # sigmoid(log 1/11) = 1/12 -> 0; sigmoid(log 11) = 11/12 -> 1; clipped beyond.
    scores = torch.tensor([1.0, 3.0, 1 / 11, 11.0, 1e-3, 1e3], dtype=torch.float64).log()
    assert noiseless_gates(scores).tolist() == pytest.approx([0.5, 0.8, 0, 1, 0, 1])
    # With noise u = 4/7 (logit log 4/3) and score 0: sigmoid(log(4/3) / 0.33).
    expected = 1.2 / (1 + (4 / 3) ** (-1 / 0.33)) - 0.1
    noise = torch.tensor([4 / 7, 0.999, 0.001], dtype=torch.float64)
    noisy = sampled_gates(torch.zeros(3, dtype=torch.float64), noise)
    assert noisy.tolist() == pytest.approx([expected, 1.0, 0.0])


def test_the_probability_of_an_open_gate_is_how_often_samples_are_open():
    # log(0.1 / 1.1) = -log 11: at score 0, P(open) = sigmoid(0.33 log 11) = 1 / (1 + 11^-0.33).
    assert open_probability(torch.zeros(1)).item() == pytest.approx(1 / (1 + 11**-0.33))
    torch.manual_seed(8)
    for score in (-2.0, -0.5, 1.0):
        scores = torch.full((40_000,), score, dtype=torch.float64)
        opened = sampled_gates(scores, torch.rand_like(scores)).gt(0).double().mean().item()
        assert opened == pytest.approx(open_probability(torch.tensor(score)).item(), abs=0.01)


def test_importance_is_normalised_by_the_l2_norm_of_its_module():
    importance = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.5]).double()
    normalised = normalised_importance(importance, [2, 2, 1])
    assert normalised.tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0, 1.0])
