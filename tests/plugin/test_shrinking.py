"""--shrink: the run goes on as if nothing had been cut, with a smaller model and checkpoint."""

from __future__ import annotations

import pytest
import torch
from test_task import epoch_lines, heads_kept, load

from neuroprune_fairseq.compact import shapes
from neuroprune_fairseq.compact.optimizer import trained_parameters
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.plugin import compacting
from neuroprune_fairseq.plugin.compacting import with_original_numbers
from neuroprune_fairseq.plugin.criterion import PenalisedCriterion
from neuroprune_fairseq.plugin.precision import master_copies
from neuroprune_fairseq.plugin.trainer import compact_trainer_
from neuroprune_fairseq.structure import attention_blocks

THRESHOLD = ("--head-distance-threshold", 0.335)
PENALTIES = ("--attn-penalty-weight", 0.01, "--mlp-penalty-weight", 1)
PROXIMAL = ("--penalty-solver", "proximal", "--mlp-penalty-weight", 200, "--near-zero", 3e-2)
TARGETS = ("--target-heads", 10, "--target-sparsity", 0.7, "--target-interval", 4)
SMALL = ("--encoder-layers", 2, "--decoder-layers", 2)  # 6 attention modules, 4 MLPs
ALL_BUT_ONE = ("--head-distance-threshold", 100)
KEYS = ("module", "heads_kept", "replaced")


@pytest.fixture
def losses(monkeypatch):
    """The training loss of every batch, per token, in the order of the updates."""
    seen = []
    forward = PenalisedCriterion.forward

    def spy(self, model, sample, reduce=True):
        result = forward(self, model, sample, reduce)
        if model.training:
            seen.append((result[2]["loss"] / result[1]).item())
        return result

    monkeypatch.setattr(PenalisedCriterion, "forward", spy)
    return seen


def shapes_of(path):
    """Heads of every attention module and neurons of every MLP of a checkpoint."""
    sizes = shapes(load_model(path))
    heads = [size for name, size in sizes.items() if name.endswith("attn")]
    return heads, [size for name, size in sizes.items() if not name.endswith("attn")]


@pytest.mark.parametrize(
    ("flags", "cuts_neurons"),
    [
        ((*THRESHOLD, *PENALTIES), False),
        ((*THRESHOLD, *PROXIMAL), False),
        (TARGETS, True),
        ((*TARGETS, "--target-update", 20), True),
    ],
    ids=["threshold", "proximal", "on the way to targets", "after the targets"],
)
def test_a_shrunken_run_has_the_losses_and_the_log_of_the_whole_one(
    run_train, losses, tmp_path, flags, cuts_neurons
):
    run_train("--max-epoch", 4, *SMALL, *flags, name="whole")
    expected = list(losses)
    losses.clear()
    run_train("--max-epoch", 4, *SMALL, *flags, "--shrink", name="shrunken")

    assert len(losses) == 36
    assert losses == pytest.approx(expected, abs=1e-4)
    lines = [epoch_lines(tmp_path / name) for name in ("whole", "shrunken")]
    for whole, shrunken in zip(*lines):
        modules = [line.pop("modules") for line in (whole, shrunken)]
        told = [[[record[key] for key in KEYS] for record in records] for records in modules]
        assert told[0] == told[1]
        assert shrunken == pytest.approx(whole, rel=1e-3, abs=1e-4)
    heads, neurons = shapes_of(tmp_path / "shrunken" / f"checkpoint{1 + cuts_neurons}.pt")
    assert min(heads) < 6
    assert (min(neurons) < 96) == cuts_neurons


def test_a_shrunken_run_is_resumed_as_the_whole_one_is(run_train, losses, tmp_path):
    resumed = []
    for name, extra in (("whole", ()), ("shrunken", ("--shrink",))):
        flags = ("--max-epoch", 3, *SMALL, *TARGETS, "--save-interval-updates", 20, *extra)
        run_train(*flags, name=name)
        (tmp_path / name / "checkpoint_3_20.pt").replace(tmp_path / name / "checkpoint_last.pt")
        losses.clear()
        run_train(*flags, name=name)
        resumed.append([*losses, epoch_lines(tmp_path / name)[-1]["total_sparsity"]])
    assert min(shapes_of(tmp_path / "shrunken" / "checkpoint2.pt")[1]) < 96
    assert len(resumed[0]) == 8  # seven updates more
    assert resumed[1] == pytest.approx(resumed[0], abs=1e-4)


def test_checkpoints_are_compact_from_the_cut_on_and_load_as_any(run_train, tmp_path):
    flags = ("--max-epoch", 2, *SMALL, *ALL_BUT_ONE, "--save-interval-updates", 4)
    state = run_train(*flags, "--shrink")
    first = read_checkpoint(tmp_path / "run" / "checkpoint_1_4.pt")
    assert first["cfg"]["model"].arch == "transformer_18x6_tiny"
    settings = state["cfg"]["model"]
    assert settings.arch == "transformer_18x6_tiny"
    config = settings.per_layer_config
    assert config["decoder.layers.1"]["encoder_attn"] == {"num_attention_heads": 1, "heads": [5]}
    model = load(tmp_path / "run" / "checkpoint_last.pt")
    assert [block.num_heads for block in attention_blocks(model)] == [1] * 6
    weights = sum(weight.numel() for weight in first["model"].values())
    assert sum(weight.numel() for weight in state["model"].values()) < 0.6 * weights


def test_moments_and_master_copies_are_cut_to_the_bit_and_the_rate_stays(run_train, monkeypatch):
    compared = []

    def facts(trainer):
        """By parameter: the fp32 copy and Adam's moments; beside them what must not change."""
        copies = {id(p): master.data.clone() for p, master in master_copies(trainer.optimizer)}
        names = trained_parameters(trainer.get_model())
        moments = trainer.optimizer.state_dict()["state"].values()
        tensors = {
            name: (copies[id(parameter)], state["exp_avg"].clone(), state["exp_avg_sq"].clone())
            for (name, parameter), state in zip(names.items(), moments)
        }
        return tensors, (trainer.get_lr(), [state["step"] for state in moments][0])

    def spy(trainer, plan):
        (old, before), model = facts(trainer), trainer.get_model()
        compact_trainer_(trainer, plan)
        new, after = facts(trainer)
        assert before == after
        kept = {b.name: torch.arange(40, 48) for b in attention_blocks(model)}  # head 5
        for name, tensors in new.items():
            module, _, parameter = name.rpartition("_proj.")
            part = module.rpartition(".")[0]
            for mine, whole in zip(tensors, old[name]):
                if part in kept and module.endswith("out"):
                    whole = whole if parameter == "bias" else whole[:, kept[part]]
                elif part in kept:
                    whole = whole[kept[part]]
                assert torch.equal(mine, whole), name
                compared.append(name)

    monkeypatch.setattr(compacting, "compact_trainer_", spy)
    run_train("--max-epoch", 2, *SMALL, "--shrink", "--bf16", *ALL_BUT_ONE)
    assert len(compared) == 3 * len({*compared}) > 200


def test_the_baselines_shrink_once_their_heads_are_chosen(run_train, tmp_path):
    flags = (
        "--pruner",
        "dsp",
        "--heads-to-keep",
        12,
        "--cooldown-updates",
        12,
        "--max-epoch",
        3,
        *SMALL,
    )
    task = {"criterion": "label_smoothed_cross_entropy"}
    whole = run_train(*flags, **task, name="whole")
    shrunken = run_train(*flags, "--shrink", **task)
    folder = tmp_path / "run"
    assert "per_layer_config" not in read_checkpoint(folder / "checkpoint1.pt")["cfg"]["model"]
    assert sum(shapes_of(folder / "checkpoint_last.pt")[0]) == 12
    assert heads_kept(folder / "checkpoint_last.pt") == 12
    losses = [state["extra_state"]["val_loss"] for state in (whole, shrunken)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_records_of_a_cut_model_tell_the_original_heads():
    numbers = {"a": [1, 4, 5], "gone": [], "b": [0, 1]}
    records = [
        {"module": "a", "heads_kept": [0, 2], "replaced": {1: 2}, "smallest_distance": 0.5},
        {"module": "b", "heads_kept": [1], "replaced": {0: None}, "smallest_distance": None},
    ]
    assert with_original_numbers(records, numbers) == [
        {"module": "a", "heads_kept": [1, 5], "replaced": {4: 5}, "smallest_distance": 0.5},
        {"module": "gone", "heads_kept": [], "replaced": {}, "smallest_distance": None},
        {"module": "b", "heads_kept": [1], "replaced": {0: None}, "smallest_distance": None},
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--store-ema",), "--compact excludes --store-ema"),
        (("--optimizer", "adafactor"), "--compact needs --optimizer adam, "),
        (("--head-merge", "fc1"), "--compact excludes --head-merge fc1"),
        (("--quant-noise-pq", 0.1), "--compact: .*--quant-noise-pq"),
    ],
)
def test_what_cannot_shrink_is_refused_at_the_start_in_one_line(run_train, flags, message):
    with pytest.raises(SystemExit, match=message) as left:
        run_train("--max-epoch", 1, "--shrink", *flags)
    assert "\n" not in str(left.value)
