"""neuroprune-export for language models, bart and multilingual models."""

from __future__ import annotations

import json
import re
from argparse import Namespace

import pytest
import torch
from families import prune_, stack, train_on

from neuroprune_fairseq.cli.compact import main as compact_main
from neuroprune_fairseq.cli.export import main
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import load_model, model_of

ctranslate2 = pytest.importorskip("ctranslate2")
converter = pytest.importorskip("neuroprune_fairseq.export.converter")
parity = pytest.importorskip("neuroprune_fairseq.export.parity")

STACKS = [*stack("encoder", 1), *stack("decoder")]
TEXT = ["--task", "language_modeling", "--arch", "transformer_lm", "--tokens-per-sample", "16"]
TEXT += ["--required-batch-size-multiple", "1", *stack("decoder")]
PAIRS = ["--task", "multilingual_translation", "--arch", "multilingual_transformer"]
PAIRS += ["--lang-pairs", "de-en,en-de", *STACKS]
# By family: the folder of its data, the flags of its run.
FAMILIES = {
    "language model": ("text", [*TEXT, "--share-decoder-input-output-embed"]),
    "language model, other options": (
        "text",
        [*TEXT, "--add-bos-token", "--decoder-learned-pos", "--sample-break-mode", "eos"]
        + ["--decoder-input-dim", "12", "--decoder-output-dim", "12", "--activation-fn", "gelu"],
    ),
    "bart": ("pairs", ["--task", "translation", "--arch", "bart_base", *STACKS]),
    "denoising bart": (
        "text",
        ["--task", "denoising", "--arch", "bart_base", *STACKS, "--mask", "0.3"]
        + ["--tokens-per-sample", "16", "--replace-length", "1", "--mask-length", "subword"]
        + ["--sample-break-mode", "eos"],
    ),
    "multilingual": (
        "pairs",
        [*PAIRS, "--share-encoders", "--share-decoders", "--share-all-embeddings"],
    ),
    "multilingual, separate": ("pairs", PAIRS),
}


@pytest.fixture(autouse=True)
def _short_translations(monkeypatch):
    monkeypatch.setattr(parity, "LONGEST", 12)  # the tiny models do not know when to stop


@torch.no_grad()
def make_decided_(model):
    """Every head matters, every sentence ends, and padding is unlikely: fairseq never says it."""
    for parameter in model.parameters():
        if parameter.dim() == 2 and parameter.std() < 0.05:
            parameter *= 10.0  # bart starts with small ones
    for part in getattr(model, "models", {"": model}).values():
        words = part.decoder.output_projection.weight
        words[1] = -words[2]
        end = words[2] / words[2].square().sum()
        norm = part.decoder.layers[-1].final_layer_norm
        norm.bias.copy_(norm.bias - (norm.bias @ words[2]) * end + 4.0 * end)


@pytest.fixture(scope="session")
def checkpoints(data, tmp_path_factory):
    """By family: (pruned, compact) checkpoints of a run; made when first asked for."""
    made = {}

    def make(family):
        if family not in made:
            folder, (where, flags) = tmp_path_factory.mktemp("export"), FAMILIES[family]
            trained = train_on(data / where, folder, *flags, "--max-update", "1")
            state = read_checkpoint(trained)
            model = model_of(state, trained)
            prune_(model)
            if not family.startswith("language"):
                make_decided_(model)
            state["model"] = {name: model.state_dict()[name] for name in state["model"]}
            torch.save(state, folder / "pruned.pt")
            compact_main([str(folder / "pruned.pt"), str(folder / "small.pt")])
            made[family] = {name: folder / f"{name}.pt" for name in ("pruned", "small")}
        return made[family]

    return make


def languages(family):
    pair = ["--source-lang", "en", "--target-lang", "de"]
    return pair if family.startswith("multilingual") else []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_agrees_with_fairseq_on_pruned_and_compact_models(
    family, checkpoints, tmp_path, capsys
):
    for name, path in checkpoints(family).items():
        main([str(path), str(tmp_path / name), *languages(family)])
        outputs = "continuations" if family.startswith("language") else "translations"
        assert re.search(rf"100\.0% of \d+ {outputs} are those", capsys.readouterr().out)
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("pruned", "small")]
    assert sizes[0] == sizes[1]


@torch.no_grad()
def test_a_language_model_gives_its_probabilities_without_fairseq(checkpoints, tmp_path):
    path = checkpoints("language model")["small"]
    main([str(path), str(tmp_path / "out")])
    assert {"model.bin", "dict.txt"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["bos_token"] == "</s>"

    words = (tmp_path / "out" / "dict.txt").read_text().split()[:6:2]
    scored = ctranslate2.Generator(str(tmp_path / "out")).score_batch([["</s>", *words]])[0]

    log_probs = load_model(path)(torch.tensor([[2, 4, 5]]))[0][0].log_softmax(dim=-1)
    expected = [log_probs[place, token].item() for place, token in enumerate((4, 5, 6))]
    assert scored.log_probs == pytest.approx(expected, abs=1e-5)


def wrongly_padded(module, width, query_dim, key_dim, pad_heads=converter.pad_heads):
    """A head that should be kept is zeroed."""
    padded = pad_heads(module, width, query_dim, key_dim)
    padded.out_proj.weight[:, :4] = 0.0
    return padded


@pytest.mark.parametrize(
    ("family", "does"),
    [("language model", "score and continue texts"), ("denoising bart", "translate")],
)
def test_nothing_is_left_behind_when_the_engine_disagrees(
    family, does, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.setattr(converter, "pad_heads", wrongly_padded)
    with pytest.raises(SystemExit, match=f"does not {does} as fairseq does"):
        main([str(checkpoints(family)["pruned"]), str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pair", [[], ["--source-lang", "de", "--target-lang", "fr"]])
def test_a_multilingual_model_needs_the_name_of_one_of_its_pairs(pair, checkpoints, tmp_path):
    path = checkpoints("multilingual")["pruned"]
    with pytest.raises(SystemExit, match="--target-lang: name one of de-en, en-de"):
        main([str(path), str(tmp_path / "out"), *pair])


def test_options_of_all_families_without_a_counterpart_are_named_at_once():
    settings = Namespace(
        task="translation_from_pretrained_bart",
        adaptive_input=True,
        decoder_langtok=True,
        scale_heads=True,
        output_dictionary_size=5,
        decoder_embed_dim=16,
        decoder_input_dim=8,
        decoder_output_dim=16,
    )
    assert converter.unsupported(settings) == [
        *("--adaptive-input", "--decoder-langtok", "--scale-heads"),
        "--task translation_from_pretrained_bart",
        "--output-dictionary-size",
        "--decoder-input-dim without --decoder-output-dim, or the reverse",
    ]
    allowed = Namespace(task="translation_neuroprune", decoder_normalize_before=True)
    assert converter.unsupported(allowed) == []
