"""The console scripts of the package and the Python programs behind the shell scripts."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from bad_input_commands import limited_disk
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import train

import neuroprune_fairseq
from neuroprune_experiments import evaluation, figures, scores
from neuroprune_experiments.records import evaluation_rows, markdown, read_evaluations
from neuroprune_fairseq.cli.user_dir import user_dir
from neuroprune_fairseq.files import checkpoint, results
from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.method.pruning import zero_small_weights_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks, prunable_weights


@pytest.fixture
def saved(run_train, tmp_path):
    """An untrained checkpoint of the tiny corpus, as fairseq-train writes it."""

    def save(*flags, name="run"):
        run_train("--max-update", 1, "--disable-validation", *flags, name=name)
        return tmp_path / name / "checkpoint_last.pt"

    return save


def generation(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "generate.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_user_dir_is_the_package_and_nothing_else_is_printed(capsys):
    user_dir([])
    assert capsys.readouterr().out == f"{Path(neuroprune_fairseq.__file__).parent}\n"


def test_model_flags_build_the_same_model_again(saved, corpus, tmp_path):
    changed = ["--encoder-layers", 2, "--decoder-ffn-embed-dim", 40, "--encoder-normalize-before"]
    state = checkpoint.read_checkpoint(saved(*changed, "--activation-fn", "gelu"))
    parser = options.get_training_parser()
    flags = [str(corpus), "--optimizer", "adam", *checkpoint.model_flags(state)]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, flags))
    task = train.tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in state["model"].items()
    }
    saved_model = vars(state["cfg"]["model"])
    for name in ("activation_fn", "encoder_normalize_before", "share_all_embeddings", "dropout"):
        assert getattr(cfg.model, name) == saved_model[name], name


def test_only_flags_of_the_model_are_listed_that_differ_from_its_defaults(saved):
    state = checkpoint.read_checkpoint(saved("--dropout", 0.3, "--max-source-positions", 300))
    flags = set(checkpoint.model_flags(state))
    noise = {"min_params_to_wrap": 7, "checkpoint_activations": True, "adaptive_softmax_factor": 4}
    vars(state["cfg"]["model"]).update(noise)
    assert set(checkpoint.model_flags(state)) == flags
    assert flags == {
        "--arch=transformer_18x6_tiny",
        "--dropout=0.3",
        "--max-source-positions=300",
        "--share-all-embeddings",
        "--share-decoder-input-output-embed",
    }


@pytest.mark.parametrize("arch", ["transformer", "bart_base", "roberta_base", "transformer_lm_gpt"])
def test_a_model_of_an_architecture_as_it_is_needs_no_other_flag(arch):
    parser = options.get_training_parser()
    words = [".", "--arch", arch, "--optimizer", "adam", "--lr", "1", "--save-dir", "x"]
    saved = options.parse_args_and_arch(parser, words)
    assert checkpoint.model_flags({"args": saved}) == [f"--arch={arch}"]


def test_the_copy_for_a_tolerance_zeroes_small_prunable_weights_and_nothing_else(
    saved, corpus, tmp_path
):
    path = saved()
    before, after = load_model(path), load_model(path)
    zero_small_weights_(after, 0.02)
    state = evaluation.with_weights_of(after, checkpoint.read_checkpoint(path))
    checkpoint.write_checkpoint(state, tmp_path / "copy.pt")
    assert state["last_optimizer_state"] is None
    after = load_model(tmp_path / "copy.pt")
    names = {id(parameter): name for name, parameter in before.named_parameters()}
    prunable = {
        names[id(weight)]
        for weight in prunable_weights([*attention_blocks(before), *mlp_blocks(before)])
    }
    assert len(prunable) == 18 * 3 + 12 * 2
    for name, old in before.state_dict().items():
        expected = torch.where(old.abs() < 0.02, 0.0, old) if name in prunable else old
        assert torch.equal(after.state_dict()[name], expected), name


def test_hypotheses_come_back_in_the_order_of_the_corpus(tmp_path):
    text = (
        "S-2\tc\nH-2\t-0.1\tthree\x85 lines\nD-2\t-0.1\tx\nH-0\t-0.2\tone\nH-0\t-9\tno\nH-1\t-1\t\n"
    )
    path = generation(tmp_path, text)
    assert evaluation.read_hypotheses(path) == ["one", "", "three\x85 lines"]


def test_a_missing_hypothesis_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="lacks translations"):
        evaluation.read_hypotheses(generation(tmp_path, "H-0\t-1\ta\nH-2\t-1\tb\n"))


def test_speed_is_fairseqs_own(tmp_path):
    line = (
        "| Translated 1,014 sentences (15,204 tokens) in 9.5s (106.7 sentences/s, 1600.42 tokens/s)"
    )
    assert evaluation.read_speed(generation(tmp_path, line)) == {
        "generation_seconds": 9.5,
        "generated_tokens": 15204,
        "tokens_per_second": 1600.42,
    }


def test_bleu_is_case_sensitive_and_its_lowercased_twin_is_not():
    references = ["The small cat sat on the mat .", "A dog barks at the old Moon ."]
    found = scores.bleu_scores([line.lower() for line in references], references)
    assert found["bleu"] < 90
    assert found["bleu_lowercased"] == pytest.approx(100)
    assert "case:mixed" in found["bleu_signature"]
    assert "case:lc" in found["bleu_lowercased_signature"]


def test_rouge_counts_common_words_pairs_and_the_longest_common_sequence():
    # Of 4 and 5 words "cats", "sat", "mat" are common after stemming, no pair is; in order: all 3.
    found = scores.rouge_scores(["cat sat mat quietly"], ["Two cats never sat (mat)"])
    assert found["rouge1"] == found["rougeL"] == pytest.approx(100 * 2 * 3 / 9, abs=1e-4)
    # One of three and of four pairs: "sat mat".
    assert found["rouge2"] == pytest.approx(100 * 2 * 1 / 7, abs=1e-4)


def test_each_record_is_one_line_and_reading_returns_them_in_order(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    records = [{**RECORD, "label": "ä\n"}, {**RECORD, "label": "b"}]
    for record in records:
        results.append_line(path, record)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert read_evaluations(path) == records


def test_a_full_disk_leaves_a_results_file_as_it_was(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append_line(path, {**RECORD, "label": "a"})
    before = path.read_bytes()
    with limited_disk(len(before) + 10), pytest.raises(SystemExit, match="cannot be written"):
        results.append_line(path, {**RECORD, "label": "b"})
    assert path.read_bytes() == before


def test_translations_made_in_another_way_get_another_name():
    plain, other = evaluation.GenerationSettings(), evaluation.GenerationSettings(beam=1)
    assert plain.suffix() == "generate-test"
    assert other.suffix() == "generate-test.beam-1"
    flags = {evaluation.GenerationSettings(flags=(flag,)).suffix() for flag in ("--cpu", "--fp16")}
    assert len(flags) == 2


RECORD = {
    "bleu": 35.428,
    "heads_kept": 3,
    "heads_total": 4,
    "heads_kept_per_module": {"encoder.layers.0.self_attn": 2, "decoder.layers.0.encoder_attn": 1},
    "attn_sparsity": 0.25,
    "mlp_sparsity": 0.5,
    "total_sparsity": 0.4,
    "generation_seconds": 9.04,
}


def test_the_table_has_a_row_for_each_record_with_every_number():
    speed = {"tokens_per_second": 1234.5, "engine": "E"}
    records = [{"label": "dense", **RECORD}, {"label": "p", "train_seconds": 12, **speed, **RECORD}]
    lines = markdown(evaluation_rows(records)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == [
        "dense",
        "35.43",
        "3 of 4",
        "0.250",
        "0.500",
        "0.400",
        *("-", "-", "fairseq"),
    ]
    assert cells[3][6:] == ["12", "1,234", "E"]
    assert len({len(line) for line in lines}) == 1


def test_the_overview_is_written_as_png_and_svg_and_leaves_no_temporary_file(tmp_path):
    records = [{"label": name, **RECORD} for name in ("dense", "pruned")]
    paths = figures.draw_overview(records, tmp_path / "overview")
    assert sorted(path.name for path in paths) == ["overview.png", "overview.svg"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in paths[1].read_bytes()


def test_training_facts_are_read_from_beside_the_checkpoint(tmp_path):
    assert evaluation.training_facts(tmp_path / "c.pt") == {}
    (tmp_path / "command.txt").write_text("fairseq-train x\n")
    (tmp_path / "finished.json").write_text(json.dumps({"train_seconds": 7}))
    facts = evaluation.training_facts(tmp_path / "c.pt")
    assert facts == {"train_command": "fairseq-train x", "train_seconds": 7}


@pytest.fixture(scope="module")
def requirements():
    """What setup.py hands to setuptools."""
    setuptools = pytest.importorskip("setuptools")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **settings: found.update(settings))
        runpy.run_path(str(Path(neuroprune_fairseq.__file__).parent.parent / "setup.py"))
    return found


def test_installing_the_package_itself_never_asks_for_a_fairseq(requirements):
    assert not [name for name in requirements["install_requires"] if "fairseq" in name]


@pytest.mark.parametrize(
    ("python", "platform", "machine", "expected"),
    [
        ("3.11", "linux", "x86_64", "ve-fairseq"),
        ("3.12", "linux", "x86_64", "ve-fairseq"),
        ("3.12", "linux", "aarch64", "fairseq-fixed"),
        ("3.11", "darwin", "arm64", "fairseq-fixed"),
        ("3.13", "linux", "x86_64", "fairseq-fixed"),
    ],
)
def test_the_extra_picks_exactly_one_fairseq(requirements, python, platform, machine, expected):
    parse = pytest.importorskip("packaging.requirements").Requirement
    place = {"python_version": python, "sys_platform": platform, "platform_machine": machine}
    candidates = map(parse, requirements["extras_require"]["fairseq"])
    assert [each.name for each in candidates if each.marker.evaluate(place)] == [expected]
