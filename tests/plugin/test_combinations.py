"""What people combine with pruning: each feature of fairseq runs, and pruned heads are zero."""

from __future__ import annotations

import math

import conftest
import pytest
from conftest import TRAIN_FLAGS, USER_DIR
from fairseq import checkpoint_utils
from fairseq.dataclass.initialize import hydra_init
from fairseq_cli.hydra_train import _hydra_main
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from neuroprune_fairseq.cli import compact as compact
from neuroprune_fairseq.files.checkpoint import model_flags, read_checkpoint
from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.method.pruning import pruned_heads
from neuroprune_fairseq.method.sparsity import measure
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

pytestmark = pytest.mark.slow
SMALL = "--encoder-layers 2 --decoder-layers 1 --no-epoch-checkpoints".split()

# What changes when or how gradients come to the weights is tried with every way of pruning.
GRADIENTS = [
    "--update-freq 2",
    "--clip-norm 0.1",
    "--checkpoint-activations",
    "--encoder-layerdrop 0.5 --decoder-layerdrop 0.5",
    "--quant-noise-pq 0.1",
    "--validate-interval-updates 2",
]
OTHERS = [
    "--checkpoint-activations --offload-activations",
    "--patience 9",
    "--store-ema --ema-decay 0.9",
    "--encoder-normalize-before --decoder-normalize-before --layernorm-embedding",
    "--no-cross-attention --cross-self-attention",
    "--share-decoder-input-output-embed --encoder-embed-dim 24",
]
METHODS = {
    "threshold": "--head-distance-threshold 100 --attn-penalty-weight 0.01",
    "target": "--target-heads 5 --target-sparsity 0.6 --penalty-solver proximal"
    " --mlp-penalty-weight 0.1",
    "dsp": "--pruner dsp --heads-to-keep 5",
}
PAIRS = [(features, method) for features in GRADIENTS for method in METHODS]
PAIRS += [(features, "threshold") for features in OTHERS]


@pytest.mark.parametrize(("features", "method"), PAIRS)
def test_a_feature_trains_with_a_way_of_pruning(
    run_train, corpus, tmp_path, monkeypatch, features, method
):
    if "--share-decoder" in features:  # in place of what all other tests share
        plain = [flag for flag in TRAIN_FLAGS if flag != "--share-all-embeddings"]
        monkeypatch.setattr(conftest, "TRAIN_FLAGS", plain)
    flags = ["--max-epoch", 1, *SMALL, *features.split(), *METHODS[method].split()]
    stock = {"criterion": "label_smoothed_cross_entropy"}
    run_train(*flags, **(stock if method == "dsp" else {}))
    path = tmp_path / "run" / "checkpoint_last.pt"
    model = load_model(path)
    blocks = attention_blocks(model)
    found = measure(model)
    expected = len(blocks) if method == "threshold" else 5
    assert found["heads_kept"] == expected
    assert found["heads_total"] - expected == sum(len(pruned_heads(block)) for block in blocks)
    assert len(mlp_blocks(model)) == 3
    assert math.isfinite(read_checkpoint(path)["extra_state"]["val_loss"])
    if method == "target":
        assert found["total_sparsity"] == pytest.approx(0.6, abs=0.005)


def test_a_layer_that_is_dropped_for_good_is_absent_from_the_numbers(run_train, tmp_path):
    run_train("--max-epoch", 1, *SMALL, "--encoder-layerdrop", 0.2)
    kept = {"encoder_layers_to_keep": "1", "decoder_layers_to_keep": "0"}
    path = str(tmp_path / "run" / "checkpoint_last.pt")
    [model], _ = checkpoint_utils.load_model_ensemble([path], arg_overrides=kept)
    assert measure(model)["heads_total"] == 3 * 6
    assert [block.kind for block in attention_blocks(model)][0] == "encoder_self"
    assert len(mlp_blocks(model)) == 2


@pytest.fixture
def hydra_train(corpus, tmp_path):
    """Runs fairseq-hydra-train's own function on our configuration; returns the checkpoint."""

    def run(*overrides):
        GlobalHydra.instance().clear()
        hydra_init("neuroprune")
        overrides = [f"common.user_dir={USER_DIR}", f"task.data={corpus}", *overrides]
        overrides += [f"checkpoint.save_dir={tmp_path}/run", "optimization.max_epoch=1"]
        overrides += ["common.cpu=true", "dataset.max_tokens=120", "dataset.num_workers=0"]
        overrides += ["model._name=transformer_18x6_tiny", "+model.encoder_layers=1"]
        with initialize_config_dir(f"{USER_DIR}/config", version_base="1.1"):
            cfg = compose("neuroprune", overrides=overrides)
        _hydra_main(cfg)
        return tmp_path / "run" / "checkpoint_last.pt"

    yield run
    GlobalHydra.instance().clear()


def test_our_configuration_trains_with_hydra_and_its_checkpoint_is_like_any_other(
    hydra_train, corpus, tmp_path
):
    path = hydra_train("task.head_distance_threshold=100", "+model.decoder_layers=1")
    assert measure(load_model(path))["heads_kept"] == 3
    assert any(flag.startswith("--encoder-layers=") for flag in model_flags(read_checkpoint(path)))
    compact.main([str(path), str(tmp_path / "small.pt")])
    smaller = load_model(tmp_path / "small.pt")
    assert [block.num_heads for block in attention_blocks(smaller)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.head_merge=x", "--head-merge x is none of"),
        ("criterion.near_zero=-1", "--near-zero -1.0 must be"),
        ("checkpoint.patience=3", "--patience could end the run"),
    ],
)
def test_a_wrong_setting_of_hydra_gets_one_line(hydra_train, override, message):
    target = ["+task.target_heads=2", "task.head_distance_threshold=null"]
    with pytest.raises(SystemExit, match=message) as left:
        hydra_train(override, *target, "+model.decoder_layers=1")
    assert "\n" not in str(left.value)
