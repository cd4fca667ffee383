"""neuroprune-export: CTranslate2 translates as fairseq does."""

from __future__ import annotations

import copy
from argparse import Namespace

import pytest
import sentencepiece
import torch
from fairseq import options
from fairseq_cli import train

from neuroprune_fairseq.cli.compact import main as compact_main
from neuroprune_fairseq.cli.export import main
from neuroprune_fairseq.compact import cutting
from neuroprune_fairseq.compact.cutting import plan_of_pruned
from neuroprune_fairseq.compact.state import compact_state
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import load_model_and_task, model_of
from neuroprune_fairseq.method.pruning import zero_heads_, zero_layers_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks
from tests.conftest import TRAIN_FLAGS

ctranslate2 = pytest.importorskip("ctranslate2")
converter = pytest.importorskip("neuroprune_fairseq.export.converter")
parity = pytest.importorskip("neuroprune_fairseq.export.parity")

SIZES = ["--encoder-layers", "2", "--decoder-layers", "2"]
VARIANTS = {
    "post-norm": [],
    "pre-norm": ["--encoder-normalize-before", "--decoder-normalize-before"],
    "other widths": ["--encoder-embed-dim", "36", "--encoder-attention-heads", "3"],
    "gelu": ["--activation-fn", "gelu", "--layernorm-embedding", "--encoder-learned-pos"],
}


@pytest.fixture(autouse=True)
def _short_translations(monkeypatch):
    monkeypatch.setattr(parity, "LONGEST", 12)  # the tiny models do not know when to stop


@torch.no_grad()
def prune_(model):
    """Unequal heads, a module without any, narrower MLPs, zero input dimensions."""
    for heads, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(min(heads, block.num_heads)))
        for weight in block.prunable_weights:
            weight[:, ::3] = 0.0
    for number, block in enumerate(mlp_blocks(model)):
        block.fc1.weight[: 10 * (number + 1)] = 0.0
        block.fc1.bias[: 10 * (number + 1)] = 0.5


def run_train(corpus, folder, *flags):
    arguments = [str(corpus), *TRAIN_FLAGS, "--save-dir", str(folder), "--seed", "4", *flags]
    if "--encoder-embed-dim" in flags:
        arguments.remove("--share-all-embeddings")
    arguments += ["--task", "translation", "--criterion", "label_smoothed_cross_entropy"]
    arguments += ["--no-epoch-checkpoints", "--disable-validation", "--lr", "5e-3"]
    train.main(options.parse_args_and_arch(options.get_training_parser(), arguments))
    return folder / "checkpoint_last.pt"


def train_and_prune(corpus, folder, *flags):
    path = run_train(corpus, folder, *SIZES, "--max-epoch", "1", *flags)
    state = read_checkpoint(path)
    model = model_of(state, str(path))
    prune_(model)
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    torch.save(state, folder / "pruned.pt")
    return folder / "pruned.pt"


@pytest.fixture(scope="session")
def pruned(corpus, tmp_path_factory):
    return train_and_prune(corpus, tmp_path_factory.mktemp("export"))


def compare_with_engine(path, corpus, folder, sentences=20):
    """Export by hand and compare translations: (share of same ones, largest score difference)."""
    model, task = load_model_and_task(path, corpus)
    model.float().eval()
    task.load_dataset("test")
    settings = read_checkpoint(path)["cfg"]["model"]
    source, target = task.source_dictionary, task.target_dictionary
    converter.ModelConverter(model, settings, source, target).convert(str(folder))
    numbers = range(sentences)
    expected = parity.fairseq_translations(model, task.dataset("test"), target, numbers)
    engine = parity.Engine(folder, task.dataset("test"), source, numbers)
    return parity.compare(expected, engine.translations(), engine.scores(expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_transformer_translates_the_same(corpus, tmp_path, name, monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_WIDTH", 1)  # so that input dimensions are cut too
    path = train_and_prune(corpus, tmp_path, *VARIANTS[name])

    agreement = compare_with_engine(path, corpus, tmp_path / "engine")

    assert agreement.same == 1.0
    assert agreement.score_difference < 1e-3


GONE = ["encoder.layers.1", "decoder.layers.0", "decoder.layers.1"]


@pytest.fixture
def _room_for_every_end(monkeypatch):
    """At the longest length the engine leaves out the score of </s>, and so chooses others."""
    monkeypatch.setattr(parity, "LONGEST", 40)


@pytest.fixture(scope="session")
def shallow(corpus, tmp_path_factory):
    """Without some of its layers, which are cut out of a pre-norm model as it is compacted."""
    folder = tmp_path_factory.mktemp("shallow")
    flags = ["--encoder-layers", "2", "--decoder-layers", "3", "--max-epoch", "1"]
    path = run_train(corpus, folder, *flags, *VARIANTS["pre-norm"])
    state = read_checkpoint(path)
    model = model_of(state, str(path))
    zero_layers_(model, GONE)
    blocks = attention_blocks(model)
    zero_heads_(blocks[0], torch.arange(4))
    zero_heads_(blocks[-1], torch.arange(3))
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    torch.save(state, folder / "pruned.pt")
    compact_main([str(folder / "pruned.pt"), str(folder / "small.pt")])
    return folder


@pytest.mark.usefixtures("_room_for_every_end")
@pytest.mark.parametrize("name", ["pruned", "small"])
def test_a_layer_that_is_gone_is_no_layer_of_the_engine(shallow, corpus, tmp_path, name):
    agreement = compare_with_engine(shallow / f"{name}.pt", corpus, tmp_path / "engine")
    assert agreement.same == 1.0 and agreement.score_difference < 1e-4
    model, task = load_model_and_task(shallow / f"{name}.pt", corpus)
    settings = read_checkpoint(shallow / f"{name}.pt")["cfg"]["model"]
    dictionaries = (task.source_dictionary, task.target_dictionary)
    spec = converter.ModelConverter(model, settings, *dictionaries)._load()
    assert len(spec.encoder.layer) == len(spec.decoder.layer) == 1


@pytest.mark.usefixtures("_room_for_every_end")
def test_the_command_says_what_padding_costs(shallow, tmp_path, capsys):
    main([str(shallow / "small.pt"), str(tmp_path / "out")])
    # Of the decoder's last layer: 6 and 3 heads, both padded to 6.
    assert (
        "heads left: encoder 2, padded to 2 (1 x 2); decoder 9, padded to 12 (2 x 6)"
    ) in capsys.readouterr().out


@pytest.mark.usefixtures("_room_for_every_end")
def test_in_a_post_norm_model_trained_without_a_layer_the_engine_agrees(corpus, tmp_path):
    path = run_train(corpus, tmp_path, *SIZES, "--max-epoch", "1")
    state = read_checkpoint(path)
    model = model_of(state, str(path))
    zero_layers_(model, ["encoder.layers.0", "decoder.layers.1"])
    plan = plan_of_pruned(model)
    smaller = copy.deepcopy(model)
    cutting.cut_(smaller, plan)
    state = compact_state(state, model, smaller, plan, keep_optimizer=False)
    torch.save(state, tmp_path / "small.pt")
    agreement = compare_with_engine(tmp_path / "small.pt", corpus, tmp_path / "engine")
    assert agreement.same == 1.0 and agreement.score_difference < 1e-4


def test_the_command_puts_everything_beside_the_model(corpus, pruned, tmp_path, capsys):
    text, spm = tmp_path / "text", tmp_path / "any.model"
    text.write_text("w1 w2 w3\n" * 20, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(spm.with_suffix("")), vocab_size=9
    )

    main([str(pruned), str(tmp_path / "out"), "--sentencepiece-model", str(spm)])

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.bin", "config.json", "dict.de.txt", "dict.en.txt", "spm.model"} <= names
    assert "100.0% of 20 translations" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_what_is_pruned_is_cut_out_on_the_way(corpus, pruned, tmp_path):
    compact_main([str(pruned), str(tmp_path / "small.pt")])
    for name, path in (("one", pruned), ("two", tmp_path / "small.pt")):
        main([str(path), str(tmp_path / name)])
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("one", "two")]
    assert sizes[0] == sizes[1]


def test_quantised_models_are_smaller(pruned, tmp_path):
    main([str(pruned), str(tmp_path / "full")])
    main([str(pruned), str(tmp_path / "int8"), "--quantization", "int8"])
    full, int8 = ((tmp_path / name / "model.bin").stat().st_size for name in ("full", "int8"))
    assert int8 < 0.75 * full
    translator = ctranslate2.Translator(str(tmp_path / "int8"), intra_threads=1)
    assert translator.translate_batch([["w1", "w2"]], max_decoding_length=5)[0].hypotheses


def test_three_lines_translate_raw_text(corpus, pruned, tmp_path):
    text = tmp_path / "text"
    words = [f"w{number}" for number in range(30)]
    text.write_text("".join(" ".join(words[i:] + words[:i]) + "\n" for i in range(30)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "spm"), vocab_size=30, minloglevel=2
    )
    out = tmp_path / "out"
    main([str(pruned), str(out), "--sentencepiece-model", str(tmp_path / "spm.model")])

    pieces = sentencepiece.SentencePieceProcessor(str(out / "spm.model"))
    engine = ctranslate2.Translator(str(out))
    best = engine.translate_batch([pieces.encode("w1 w2", out_type=str)], max_decoding_length=9)

    assert isinstance(pieces.decode(best[0].hypotheses[0]), str)


def wrongly_padded(module, width, query_dim, key_dim, pad_heads=converter.pad_heads):
    """Zero heads, but one that should be kept is zeroed too."""
    padded = pad_heads(module, width, query_dim, key_dim)
    padded.out_proj.weight[:, :8] = 0.0
    return padded


def test_nothing_is_left_behind_when_translations_differ(pruned, tmp_path, monkeypatch):
    # One number of heads too many: the engine takes it without an error.
    monkeypatch.setattr(converter, "stack_heads", lambda stack: 6)
    monkeypatch.setattr(converter, "pad_heads", wrongly_padded)
    with pytest.raises(SystemExit, match="does not translate as fairseq does"):
        main([str(pruned), str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_ties_count_as_the_same_and_other_translations_do_not():
    best = parity.Translation(("a",), -1.0)
    tie, worse = parity.Translation(("b",), -1.00005), parity.Translation(("b",), -1.1)

    agreement = parity.compare([best] * 3, [best, tie, worse], [-1.0, -1.01, -1.0])

    assert agreement.same == pytest.approx(2 / 3)
    assert agreement.score_difference == pytest.approx(0.01)


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    message = capsys.readouterr().err if isinstance(left.value.code, int) else left.value.code
    assert left.value.code
    return message


def test_an_engine_that_is_not_installed_is_named(pruned, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install ctranslate2" in refused([pruned, tmp_path / "out"], capsys)


def test_all_options_without_a_counterpart_are_named_at_once():
    settings = Namespace(
        activation_fn="tanh",
        adaptive_softmax_cutoff=None,
        no_token_positional_embeddings=True,
        no_cross_attention=False,
        cross_self_attention=False,
        encoder_normalize_before=True,
        decoder_normalize_before=False,
    )
    found = converter.unsupported(settings)
    assert len(found) == 3
    assert {"--activation-fn", "--no-token-positional-embeddings"} <= set(found)
