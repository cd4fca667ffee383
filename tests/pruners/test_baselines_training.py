"""The baselines through fairseq's own training loop: what their checkpoints hold."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.tasks.translation import TranslationTask

from neuroprune_fairseq.method.pruning import pruned_heads
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.structure import attention_blocks

CROSS_ENTROPY = "label_smoothed_cross_entropy"
DSP, VOITA, MICHEL = "dsp", "voita", "michel"
STATE = "TranslationNeuropruneTask"
# The tiny corpus has 9 updates an epoch.


@pytest.fixture
def run(run_train):
    """Runs a baseline with fairseq's own criterion."""

    def run_task(pruner, flags, **settings):
        return run_train("--pruner", pruner, *flags.split(), criterion=CROSS_ENTROPY, **settings)

    return run_task


def load(path):
    (model,), _ = checkpoint_utils.load_model_ensemble([str(path)])
    return model


def epoch_lines(folder):
    return [json.loads(line) for line in (folder / "neuroprune.jsonl").read_text().splitlines()]


def heads_kept(path):
    """Living heads; all others must be zero in every part."""
    model = load(path)
    kept = measure(model)["heads_kept"]
    assert 108 - kept == sum(len(pruned_heads(block)) for block in attention_blocks(model))
    return kept


def assert_equal_weights(ours, theirs):
    assert ours["model"].keys() == theirs["model"].keys()
    for name, value in theirs["model"].items():
        assert torch.equal(ours["model"][name], value), name


@pytest.mark.parametrize("keep", [6, 54, 107])
def test_dsp_leaves_exactly_k_heads(run, tmp_path, keep):
    run(DSP, f"--heads-to-keep {keep} --max-epoch 1 --cooldown-updates 5 --weight-decay 0.1")
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == keep


def test_k_of_all_heads_is_stock_training(run, run_train):
    ours = run(DSP, "--heads-to-keep 108 --max-epoch 1", name="ours")
    stock = run_train("--max-epoch", 1, name="stock", task="translation", criterion=CROSS_ENTROPY)
    assert_equal_weights(ours, stock)


def test_a_run_shorter_than_the_annealing_chooses_at_its_last_epoch(run, tmp_path):
    run(DSP, "--heads-to-keep 36 --max-epoch 2")
    first, second = epoch_lines(tmp_path / "run")
    assert (first["heads_kept"], first["gates_open"]) == (108, 36)
    assert first["temperature"] == pytest.approx(0.1 * 1e-7 ** (9 / 15000))
    assert second["heads_kept"] == 36 and "gates_open" not in second
    assert heads_kept(tmp_path / "run" / "checkpoint1.pt") == 108
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 36


@pytest.mark.parametrize("flags", ["--disable-validation", "--update-freq 2"])
def test_a_stop_at_max_update_in_the_middle_of_an_epoch_chooses_too(run, tmp_path, flags):
    run(DSP, f"--heads-to-keep 36 --max-update 3 {flags}")
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 36


def test_the_chosen_heads_are_the_same_in_every_later_checkpoint(run, tmp_path):
    flags = "--max-epoch 2 --cooldown-updates 4 --save-interval-updates 5"
    run(DSP, f"--heads-to-keep 36 {flags}")
    dead = []
    for name in ("checkpoint_1_5.pt", "checkpoint1.pt", "checkpoint_last.pt"):
        blocks = attention_blocks(load(tmp_path / "run" / name))
        dead.append([pruned_heads(block).tolist() for block in blocks])
    assert sum(map(len, dead[0])) == 72
    assert dead[0] == dead[1] == dead[2]


def test_pipelined_changes_nothing_but_the_lost_heads(run, run_train, tmp_path):
    before = run_train("--max-epoch", 1, name="pretrained")["model"]
    pretrained = tmp_path / "pretrained" / "checkpoint_last.pt"
    flags = f"--max-epoch 1 --cooldown-updates 6 --finetune-from-model {pretrained}"
    after = run(DSP, f"--dsp-mode pipelined --heads-to-keep 36 {flags}")["model"]
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 36
    for name, value in after.items():
        same = value.eq(before[name])
        assert same.all() or "_proj" in name, name
        assert value[~same].eq(0).all(), name


def test_straight_through_leaves_exactly_k_heads_and_learns_scores_and_weights(run, tmp_path):
    flags = "--dsp-mode straight-through --heads-to-keep 36 --save-interval-updates 5"
    run(DSP, f"{flags} --max-epoch 1")
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 36
    middle = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "run" / "checkpoint_1_5.pt"))
    scores = middle["extra_state"][STATE]["state"]["scores"]["values"]
    start = (torch.rand(108, generator=torch.Generator().manual_seed(1)) * 2 - 1) * 0.5
    assert scores.ne(start).all(), "every score moved, of open and closed gates"


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        (DSP, "--heads-to-keep 36 --cooldown-updates 12 --score-clip-ratio 10"),
        (DSP, "--heads-to-keep 36 --cooldown-updates 12 --dsp-mode pipelined --update-freq 2"),
        (VOITA, "--l0-penalty-weight 0.5 --score-lr 0.5"),
        (MICHEL, "--heads-to-keep 36 --prune-updates 12 --prune-steps 4 --importance-recompute"),
        (MICHEL, "--heads-to-keep 36 --prune-updates 12 --prune-steps 3"),
    ],
)
def test_a_killed_and_resumed_run_is_the_same_run(run, tmp_path, task, flags):
    flags = f"{flags} --max-epoch 2"
    whole = run(task, f"{flags} --save-interval-updates 4", name="whole")
    (tmp_path / "run").mkdir()
    middle = tmp_path / "whole" / "checkpoint_1_4.pt"
    shutil.copy(middle, tmp_path / "run" / "checkpoint_last.pt")
    resumed = run(task, flags)
    assert_equal_weights(resumed, whole)
    assert epoch_lines(tmp_path / "run") == epoch_lines(tmp_path / "whole")


def test_a_finished_choice_survives_a_resume_without_gates(run, tmp_path):
    run(DSP, "--heads-to-keep 36 --max-epoch 1 --cooldown-updates 4")
    last = run(DSP, "--heads-to-keep 36 --max-epoch 2 --cooldown-updates 4")
    state = last["extra_state"][STATE]["state"]
    assert state["finished"] is True and "scores" not in state
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 36


def test_a_pruned_model_can_be_pruned_further(run, tmp_path):
    run(DSP, "--heads-to-keep 54 --max-epoch 1 --cooldown-updates 4", name="first")
    first = tmp_path / "first" / "checkpoint_last.pt"
    run(DSP, f"--heads-to-keep 20 --max-epoch 1 --finetune-from-model {first}")
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 20
    with pytest.raises(SystemExit, match="--target-heads 55 must be 1 to 54"):
        run(DSP, f"--heads-to-keep 55 --max-epoch 1 --finetune-from-model {first}", name="more")


@pytest.mark.parametrize("task", [DSP, MICHEL])
def test_k_heads_stay_in_bfloat16_with_fp32_master_weights(run, tmp_path, task):
    steps = "--cooldown-updates 4" if task == DSP else "--prune-updates 8 --prune-steps 4"
    run(task, f"--heads-to-keep 36 --max-epoch 2 --bf16 {steps}")
    assert heads_kept(tmp_path / "run" / "checkpoint_last.pt") == 36


def test_validation_sees_k_heads_while_the_gates_are_soft(run, monkeypatch):
    seen = []
    valid_step = TranslationTask.valid_step

    def spy(self, sample, model, criterion):
        gates = self.loop.pruner.gates
        if gates:  # else they are folded already
            seen.append(gates._values.evaluation.sum().item())
        return valid_step(self, sample, model, criterion)

    monkeypatch.setattr(TranslationTask, "valid_step", spy)
    run(DSP, "--heads-to-keep 36 --max-epoch 2 --max-update 10 --validate-interval-updates 4")
    assert seen and set(seen) == {36.0}


def test_a_checkpoint_has_the_keys_of_the_stock_model_also_while_gates_learn(run, run_train):
    ours = run(VOITA, "--max-epoch 1 --stop-time-hours 1e-9")
    stock = run_train("--max-epoch", 1, name="stock", task="translation", criterion=CROSS_ENTROPY)
    assert ours["extra_state"][STATE]["state"]["finished"] is False
    assert ours["model"].keys() == stock["model"].keys()
    assert ours["criterion"] is None


def test_a_larger_l0_penalty_leaves_fewer_heads_and_folds_the_other_gates(run, tmp_path):
    kept = []
    for weight in (0.0, 2.0):
        run(VOITA, f"--l0-penalty-weight {weight} --score-lr 0.6 --max-epoch 1", name=str(weight))
        kept.append(heads_kept(tmp_path / str(weight) / "checkpoint_last.pt"))
    assert kept[0] > kept[1]


@pytest.mark.parametrize("recompute", ["", "--importance-recompute"])
def test_michel_removes_heads_in_equal_steps_and_holds_them(run, tmp_path, recompute):
    flags = f"--prune-updates 18 --prune-steps 2 {recompute}"
    run(MICHEL, f"--heads-to-keep 36 --max-epoch 3 {flags}")
    assert [line["heads_kept"] for line in epoch_lines(tmp_path / "run")] == [72, 36, 36]
    dead = [
        [set(pruned_heads(block).tolist()) for block in attention_blocks(load(path))]
        for path in sorted((tmp_path / "run").glob("checkpoint?.pt"))
    ]
    assert all(first <= second == third for first, second, third in zip(*dead))


def test_michel_keeps_the_heads_of_largest_normalised_importance(run, tmp_path):
    # One step after update 9; what was gathered is on file from just after update 8.
    flags = "--max-epoch 1 --prune-updates 9 --prune-steps 1 --save-interval-updates 8"
    run(MICHEL, f"--heads-to-keep 36 {flags}")
    path = tmp_path / "run" / "checkpoint_1_8.pt"
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    gathered = state["extra_state"][STATE]["state"]["gathered"]
    modules = gathered[:-1].view(18, 6)
    assert modules.gt(0).all() and gathered[-1] > 0
    best = (modules / modules.norm(dim=1, keepdim=True)).flatten().topk(25).indices
    blocks = attention_blocks(load(tmp_path / "run" / "checkpoint_last.pt"))
    dead = {6 * i + head for i, b in enumerate(blocks) for head in pruned_heads(b).tolist()}
    assert not dead & set(best.tolist()), "far from the border, one more update decides nothing"


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        (DSP, "", "--target-heads None must be .* at least 1"),
        (DSP, "--heads-to-keep 0", "--target-heads 0 must be .* at least 1"),
        (DSP, "--heads-to-keep 109", "--target-heads 109 must be 1 to 108"),
        (MICHEL, "--heads-to-keep 109", "--target-heads 109 must be 1 to 108"),
        (DSP, "--heads-to-keep 9 --score-lr 0", "--score-lr 0.0 must be a number above 0"),
        (DSP, "--heads-to-keep 9 --cooldown-updates 0", "--cooldown-updates 0 must be"),
        (DSP, "--heads-to-keep 9 --initial-temperature nan", "--initial-temperature nan must be"),
        (DSP, "--heads-to-keep 9 --final-temperature 1", "--final-temperature 1.0 must not be"),
        (MICHEL, "--heads-to-keep 9 --prune-steps 0", "--prune-steps 0 must be"),
        (DSP, "--heads-to-keep 9 --score-clip-ratio=-1", "--score-clip-ratio -1.0 must be"),
        (VOITA, "--l0-penalty-weight=-1", "--l0-penalty-weight -1.0 must be"),
        (VOITA, "--gate-updates=-1", "--gate-updates -1 must be"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(run, task, flags, message):
    with pytest.raises(SystemExit, match=message) as caught:
        run(task, f"--max-epoch 1 {flags}")
    assert "\n" not in str(caught.value)


def test_a_run_without_an_end_is_refused(run):
    with pytest.raises(SystemExit, match="--max-epoch or --max-update is needed"):
        run(DSP, "--heads-to-keep 9")


def test_l1_training_shrinks_the_weights(run_train):
    def norm(state):
        return sum(v.abs().sum() for k, v in state["model"].items() if "fc1.weight" in k)

    free = run_train("--max-epoch", 1, name="free")
    pushed = run_train("--max-epoch", 1, "--l1-penalty-weight", 0.1, name="pushed")
    assert norm(pushed) < norm(free)


def test_a_negative_l1_weight_is_refused(run_train):
    with pytest.raises(SystemExit, match="--l1-penalty-weight -1.0 must be"):
        run_train("--max-epoch", 1, "--l1-penalty-weight=-1")
