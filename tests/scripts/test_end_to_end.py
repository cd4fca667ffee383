"""The whole job on a small toy corpus, through the command lines that users type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEST_PAIRS = 25
pytestmark = pytest.mark.slow


def run(script: str, *arguments: object) -> str:
    """Runs scripts/NAME.sh, which must succeed; returns its standard output."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / f"{script}.sh"), *map(str, arguments)],
        env={**os.environ, "NEUROPRUNE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Corpus, pretrained and pruned models, and their results, each made by its script."""
    folder = tmp_path_factory.mktemp("runs")
    data = ("--data", folder / "corpus")
    run(
        "prepare",
        *("--corpus", "toy", "--out", folder / "corpus", "--vocab-size", 200),
        *("--train-pairs", 300, "--valid-pairs", 25, "--test-pairs", TEST_PAIRS),
    )
    small = ("--epochs", 2, "--lr", "2e-3", "--max-tokens", 1000, "--warmup-updates", 10, "--cpu")
    run(
        "pretrain",
        *(*data, "--save-dir", folder / "pretrained", *small, "--dropout", 0),
        *("--arch", "transformer_18x6_tiny", "--encoder-layers", 2, "--decoder-layers", 2),
    )
    # Untrained heads all lie within this distance, so each module keeps one.
    run(
        "finetune_neuroprune",
        *(*data, "--save-dir", folder / "pruned", *small),
        *("--pretrained", folder / "pretrained" / "checkpoint_last.pt"),
        *("--head-distance-threshold", 5, "--attn-penalty-weight", "1e-3"),
    )
    for label in ("pretrained", "pruned"):
        run(
            "evaluate",
            *(*data, "--checkpoint", folder / label / "checkpoint_last.pt", "--beam", 2),
            *("--results", folder / "results.jsonl", "--field", "seed=1", "--cpu"),
            *("--max-len-b", 10, "--max-len-a", 0),
        )
    return folder


@pytest.fixture(scope="module")
def records(runs) -> list[dict]:
    text = (runs / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_evaluation_is_one_line_with_what_is_needed_to_trust_it(records, runs):
    assert [record["label"] for record in records] == ["pretrained", "pruned"]
    for record in records:
        assert 0 <= record["bleu"] <= 100
        assert record["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
        assert "case:lc" in record["bleu_lowercased_signature"]
        assert record["generated_tokens"] >= TEST_PAIRS
        assert record["generation_seconds"] > 0
        assert record["seed"] == 1
        assert record["train_command"].startswith("fairseq-train ")
        assert record["hardware"]["cores"] >= 1
        assert record["checkpoint"] == f"{runs}/{record['label']}/checkpoint_last.pt"


def test_the_dense_model_is_dense_and_the_pruned_one_keeps_a_head_in_each_module(records):
    dense, pruned = records
    assert (dense["heads_kept"], dense["heads_total"]) == (36, 36)
    assert dense["total_sparsity"] < 0.01
    assert set(pruned["heads_kept_per_module"].values()) == {1}
    assert len(pruned["heads_kept_per_module"]) == 6
    assert pruned["attn_sparsity"] == pytest.approx(5 / 6, abs=0.01)
    assert pruned["parameters"] == dense["parameters"]


def test_the_run_kept_one_line_for_each_epoch(runs):
    lines = (runs / "pruned" / "neuroprune.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_translations_are_kept_beside_the_checkpoint(runs):
    [path] = (runs / "pruned").glob("checkpoint_last.generate-test.beam-2.flags-*.txt")
    text = path.read_text(encoding="utf-8")
    assert text.count("\nH-") == TEST_PAIRS
    assert "▁" not in "".join(line for line in text.splitlines() if line.startswith("H-"))


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(runs):
    (runs / "pruned" / "finished.json").unlink()
    command = (runs / "pruned" / "command.txt").read_text()
    run(
        "finetune_neuroprune",
        *("--data", runs / "corpus", "--save-dir", runs / "pruned", "--epochs", 2),
        *("--lr", "2e-3", "--max-tokens", 1000, "--warmup-updates", 10, "--cpu"),
        *("--pretrained", runs / "pretrained" / "checkpoint_last.pt"),
        *("--head-distance-threshold", 5, "--attn-penalty-weight", "1e-3"),
    )
    assert (runs / "pruned" / "command.txt").read_text() == command
    assert json.loads((runs / "pruned" / "finished.json").read_text())["sessions"] == 2
    log = (runs / "pruned" / "train.log").read_text()
    assert "Loaded checkpoint" in log.rpartition("distributed init")[2] or "epoch 3" in log
