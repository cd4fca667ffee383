"""The course of a run: what is read from its logs, and how damaged ones are refused."""

from __future__ import annotations

import json

import pytest
from test_frontier import refusal

from neuroprune_experiments.report.runs import read_run, read_train_log
from tests.report_models import epoch_record, write_lines

TEXT_LOG = """\
2026-01-01 10:00:00 | INFO | fairseq_cli.train | {'_name': None, 'loss': 1}
2026-01-01 10:00:01 | INFO | train_inner | epoch 001:  5 / 9 loss=9.9, ppl=3
2026-01-01 10:00:02 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 4.5 | bleu 12.25
2026-01-01 10:00:03 | INFO | train | epoch 001 | loss 5.25 | nll_loss 3.1 | gnorm inf
2026-01-01 10:00:04 | INFO | valid | epoch 002 | valid on 'valid' subset | loss 9 | nll_loss 3
2026-01-01 10:00:05 | INFO | valid | epoch 002 | valid on 'valid' subset | loss 4.25 | nll_loss 3
2026-01-01 10:00:06 | INFO | train | epoch 00
"""
VALUES = {1: {"train_loss": 5.25, "valid_loss": 4.5, "valid_bleu": 12.25}, 2: {"valid_loss": 4.25}}


def json_line(split, **stats):
    return f"2026-01-01 10:00:00 | INFO | {split} | {json.dumps(stats)}\n"


def test_losses_and_bleu_are_the_last_that_fairseq_logged_for_an_epoch(tmp_path):
    (tmp_path / "train.log").write_text(TEXT_LOG)
    assert read_train_log(tmp_path / "train.log") == VALUES


def test_the_json_format_of_the_log_says_the_same(tmp_path):
    valid = {"epoch": 1, "valid_loss": "4.5", "valid_nll_loss": "3", "valid_bleu": "12.25"}
    train = {"epoch": 1, "train_loss": "5.25", "train_nll_loss": "3.1", "train_wall": "9"}
    text = json_line("valid", **valid) + json_line("train", **train) + "| INFO | train | {}\n"
    text += json_line("valid", epoch=2, valid_loss="4.25")
    (tmp_path / "train.log").write_text(text)
    assert read_train_log(tmp_path / "train.log") == VALUES


def test_an_epoch_has_the_values_of_both_logs(tmp_path):
    (tmp_path / "train.log").write_text(TEXT_LOG)
    lines = [epoch_record(1, 30, {"0": 5, "2": 5}, [1, 3, 4, 5]), epoch_record(2, 27, {"1": 3})]
    write_lines(tmp_path / "neuroprune.jsonl", lines)
    run = read_run(tmp_path, "a run")
    first, second = run.epochs
    assert (first.number, first.train_loss, first.valid_bleu, first.heads_kept) == (
        1,
        5.25,
        12.25,
        30,
    )
    assert (second.train_loss, second.valid_loss, second.attn_sparsity) == (None, 4.25, 0.2)
    assert run.values("valid_bleu") == ([1], [12.25])


def test_heads_that_went_are_counted_from_one_epoch_to_the_next(tmp_path):
    """The first epoch has none before it: there, what was replaced is what went."""
    lines = [
        epoch_record(1, 30, {"0": 5, "2": 5}),
        epoch_record(2, 30, {}),
        epoch_record(3, 10),  # a method that notes no replacements
    ]
    write_lines(tmp_path / "neuroprune.jsonl", lines)
    run = read_run(tmp_path, "a run")
    assert [epoch.heads_removed for epoch in run.epochs] == [2, 0, 20]
    assert run.pruning_epochs == [1, 3]


def test_who_replaced_whom_is_kept_with_its_epoch_up_to_the_checkpoint(tmp_path):
    lines = [
        epoch_record(1, 30, {"0": 5}, [1, 2, 3, 4, 5], num_updates=10),
        epoch_record(2, 29, {"1": None}, [2, 3, 4, 5], num_updates=20),
    ]
    write_lines(tmp_path / "neuroprune.jsonl", lines)
    name = "encoder.layers.0.self_attn"
    whole, half = read_run(tmp_path, "a run"), read_run(tmp_path, "a run", num_updates=10)
    assert whole.replaced == {name: {0: (1, 5), 1: (2, None)}}
    assert half.replaced == {name: {0: (1, 5)}}


GOOD = json.dumps(epoch_record(1, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (f"{GOOD}\n{{half", "line 2 is damaged: it is no JSON"),
        (f"{GOOD}\n\n[1]", "line 3 is no JSON object"),
        ('{"epoch": "1"}', "line 1 has no whole number in 'epoch'"),
        ('{"epoch": 1, "heads_kept": "3"}', "line 1 has no number in 'heads_kept'"),
        ('{"epoch": 1, "modules": [{"module": 3}]}', "line 1 has no text in 'modules.1.module'"),
        (
            '{"epoch": 1, "modules": [{"module": "a", "heads_kept": [], "replaced": {"x": 1}}]}',
            "line 1 has no head's number in 'modules.replaced'",
        ),
    ],
)
def test_a_damaged_run_log_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "neuroprune.jsonl").write_text(text)
    said = refusal(read_run, tmp_path, "a run")
    assert message in said and "neuroprune.jsonl" in said


def test_a_folder_without_logs_is_refused(tmp_path):
    said = refusal(read_run, tmp_path, "a run")
    assert "holds no neuroprune.jsonl and no train.log" in said
