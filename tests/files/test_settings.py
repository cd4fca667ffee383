"""Settings of honest checkpoints pass, of every age and of everybody's models."""

from __future__ import annotations

import copy
import re
import sys
import types
from collections import OrderedDict

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel

from neuroprune_experiments.evaluation import with_weights_of
from neuroprune_fairseq.files.checkpoint import read_checkpoint, write_checkpoint
from neuroprune_fairseq.files.models import model_of
from neuroprune_fairseq.files.settings import SettingsError, check_settings
from neuroprune_fairseq.structure import attention_blocks

pytestmark = pytest.mark.filterwarnings("ignore")  # fairseq's about hydra


def taken(**settings):
    return check_settings({"model": settings})[0]["model"]


@pytest.mark.parametrize(
    "settings",
    [
        {"arch": "fconv", "encoder_layers": "[(512, 3)] * 20", "decoder_attention": "True"},
        {"arch": "wav2vec2", "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4"},
        {"_name": "transformer_lm", "adaptive_softmax_cutoff": "10000,20000", "dropout": 0.1},
        {"_name": "transformer_lm", "max_target_positions": "${task.max_target_positions}"},
        {"arch": "lightconv", "encoder_kernel_size_list": [3, 7, 15], "weight_softmax": True},
        {"arch": "transformer", "encoder": {"embed_dim": 8, "layers_to_keep": [0, 2]}},
        {"arch": "transformer", "quant_noise": {"pq": 0.1, "pq_block_size": 8}},
        {"task": "translation", "eval_bleu_args": '{"beam": 5, "max_len_a": 1.2}'},
        {"task": "translation", "left_pad_source": "True", "eval_bleu_remove_bpe": "@@ "},
        {"task": "translation", "data": "/home/jö/lr=0.1, old/bin:~/more"},
        {"task": "translation_multi_simple_epoch", "langs": ["de", "en"], "lang_pairs": "de-en"},
        {"optimizer": "adam", "adam_betas": "(0.9, 0.98)", "lr": [0.0005]},
        {"arch": "of somebody", "depth": 3, "scale": 0.5, "gated": True, "limit": None},
    ],
)
def test_settings_as_fairseq_writes_them_stay_as_they_are(settings):
    known = {name: value for name, value in settings.items() if value != "of somebody"}
    assert taken(**settings) == known


def test_sizes_of_layers_are_taken_and_nothing_else_under_their_name():
    attention = {"num_attention_heads": 2, "heads": [0, 3], "inputs": [0, 1]}
    layers = {"encoder.layers.0": {"intermediate_size": 8, "self_attn": attention}}
    layers["decoder.layers.1"] = {"removed": True}
    assert taken(arch="transformer", per_layer_config=layers)["per_layer_config"] == layers
    for part, wrong in {
        **{"intermediate_size": 0.5, "self_attn": {"heads": ["0"]}, "more": 1},
        **{"encoder_attn": {"num_attention_heads": True}, "removed": 1},
    }.items():
        with pytest.raises(SettingsError, match="setting per_layer_config"):
            taken(arch="transformer", per_layer_config={"encoder.layers.0": {part: wrong}})


def test_what_is_unknown_is_left_out_with_a_note_and_a_place_is_left_empty():
    settings = {"arch": "transformer", "strange": "text", "encoder_embed_path": "a; b"}
    kept, notes = check_settings({"model": settings})
    assert kept["model"] == {"arch": "transformer", "encoder_embed_path": ""}
    assert notes == ["'strange'", "'encoder_embed_path'"]


@register_model("somebodys_transformer")
class SomebodysTransformer(TransformerModel):
    """A model of a --user-dir."""

    @staticmethod
    def add_args(parser):
        TransformerModel.add_args(parser)
        parser.add_argument("--flavour", choices=["plain", "sour"])


@register_model_architecture("somebodys_transformer", "somebodys_transformer")
def somebodys_transformer(args):
    args.flavour = getattr(args, "flavour", "plain")


def test_flags_of_somebodys_model_are_known_when_it_is_registered():
    settings = {"arch": "somebodys_transformer", "flavour": "sour"}
    assert taken(**settings) == settings
    assert taken(**{**settings, "arch": "not_registered"}) == {"arch": "not_registered"}


def packed(weights):
    """Weights as in 2018: q, k and v of every attention module in one tensor."""
    old = {name: tensor for name, tensor in weights.items() if not re.search("[qkv]_proj", name)}
    for name in weights:
        if "q_proj" in name:
            parts = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            old[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return old


def old_forms(state):
    """A checkpoint as earlier versions of fairseq wrote it, or as people publish them."""
    settings = state["cfg"]["model"]
    small = {"args": settings, "model": state["model"]}
    halves = {name: tensor.half() for name, tensor in state["model"].items()}
    return {
        "args only": {**{k: v for k, v in state.items() if k != "cfg"}, "args": settings},
        "args and cfg": {**state, "args": settings, "cfg": None},
        "cfg": {**state, "args": None},
        "weights and settings": small,
        "half precision": {**small, "model": halves},
        "no optimizer": {**state, "last_optimizer_state": None, "optimizer_history": []},
        "packed projections": {**small, "model": packed(halves)},
        "old buffers": {
            **small,
            "model": {**state["model"], "encoder.embed_positions._float_tensor": torch.zeros(1)},
        },
    }


FORMS = ("args only", "args and cfg", "cfg", "weights and settings", "half precision")
FORMS += ("no optimizer", "old buffers", "packed projections")


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_every_age_gives_the_same_model(form, checkpoints, corpus, tmp_path):
    state = torch.load(checkpoints.dense, weights_only=True)
    path = tmp_path / "old.pt"
    torch.save(copy.deepcopy(old_forms(state)[form]), path)
    models = [model_of(read_checkpoint(path), str(path))]
    write_checkpoint(with_weights_of(models[0], read_checkpoint(path)), tmp_path / "zeroed.pt")
    for file in (path, tmp_path / "zeroed.pt"):
        models += checkpoint_utils.load_model_ensemble([str(file)], {"data": str(corpus)})[0]
    for model in models:
        found = model.state_dict()
        for name, tensor in state["model"].items():
            tolerance = 1e-2 if form in ("half precision", "packed projections") else 1e-8
            torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_what_is_changed_in_an_old_model_is_saved_with_it(form, checkpoints, tmp_path):
    old = old_forms(torch.load(checkpoints.dense, weights_only=True))[form]
    torch.save(old, tmp_path / "old.pt")
    state = read_checkpoint(tmp_path / "old.pt")
    model = model_of(state, "it")
    for block in attention_blocks(model):
        block.module.q_proj.weight.zero_()
    new = with_weights_of(model, state)
    kinds = {tensor.dtype for tensor in new["model"].values()}
    assert kinds == {tensor.dtype for tensor in old["model"].values()}
    for block in attention_blocks(model_of(new, "it")):
        assert not block.module.q_proj.weight.any() and block.module.k_proj.weight.any()


@pytest.fixture
def saved_with(checkpoints, tmp_path, monkeypatch):
    """Saves a checkpoint with an object of a class of fairseq's, by its name."""

    def save(module, name):
        stand_in = types.ModuleType(module)
        monkeypatch.setitem(sys.modules, module, stand_in)
        setattr(stand_in, name, type(name, (), {"__module__": module}))
        meter = getattr(stand_in, name)()
        meter.sum = 3.0
        state = torch.load(checkpoints.dense, weights_only=True)
        state["extra_state"]["train_meters"] = OrderedDict(train_loss=meter)
        torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        return str(tmp_path / "old.pt")

    return save


@pytest.mark.parametrize("name", ["AverageMeter", "TimeMeter", "StopwatchMeter"])
def test_meters_of_old_checkpoints_are_read_as_nothing(name, saved_with, tmp_path):
    path = saved_with("fairseq.meters", name)
    for read in (read_checkpoint, checkpoint_utils.load_checkpoint_to_cpu):
        write_checkpoint(read(path), tmp_path / "new.pt")
        again = torch.load(tmp_path / "new.pt", weights_only=True)
        assert again["extra_state"]["train_meters"] == {"train_loss": {}}


def test_other_objects_of_fairseqs_are_refused_with_the_way_out(saved_with):
    path = saved_with("fairseq.somewhere", "AverageMeter")
    for read in (read_checkpoint, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(
            SystemExit, match=r"objects \(fairseq.somewhere.AverageMeter\).*torch.save"
        ):
            read(path)
