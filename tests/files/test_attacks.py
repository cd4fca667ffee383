"""Checkpoints made by a stranger: no setting of theirs runs as code or becomes a flag of its own.

A longer run, with new examples each time: NEUROPRUNE_FUZZ_EXAMPLES=20000 and this file for pytest.
"""

from __future__ import annotations

import builtins
import copy
import os
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import pytest
import torch

pytest.importorskip("hypothesis")
from fairseq import checkpoint_utils, options, utils
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neuroprune_fairseq.files.checkpoint import model_flags, read_checkpoint
from neuroprune_fairseq.files.flags import as_dict, known_flags
from neuroprune_fairseq.files.models import model_of
from neuroprune_fairseq.files.settings import SettingsError, check_settings

EXAMPLES = int(os.environ.get("NEUROPRUNE_FUZZ_EXAMPLES", "0"))


def fuzz(examples: int):
    """Few examples, always the same; or as many as asked, others each time."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        **{"max_examples": EXAMPLES or examples, "derandomize": not EXAMPLES},
        **{"deadline": None, "database": None, "suppress_health_check": quiet},
    )


# fairseq's own ones about hydra, as it reads settings of old checkpoints.
pytestmark = pytest.mark.filterwarnings("ignore")

CODE = "__import__('os').mkdir('executed')"  # in the folder in which the test runs
DICT = {"xformers_att_config": CODE}
FCONV = {"arch": "fconv", "encoder_layers": "[(8, 3)] * 2", "decoder_layers": "[(8, 3)] * 2"}
SELF_ATT = {**FCONV, "arch": "fconv_self_att"}
LSTM = {"arch": "lstm", "criterion": "adaptive_loss", "share_all_embeddings": False}
LSTM["share_decoder_input_output_embed"] = False
LIGHT = {"arch": "lightconv_iwslt_de_en"}

# Settings of a model, beside those of the checkpoint, or instead of them.
MODEL_ATTACKS = {
    "nested encoder": {"encoder": DICT},
    "nested decoder": {"decoder": DICT},
    "nested Namespace": {"encoder": Namespace(**DICT)},
    "nested twice": {"encoder": {"xformers_att_config": {"name": CODE}, **DICT}},
    "nested quantisation": {"quant_noise": {"pq": CODE}, "encoder": DICT},
    "attention, encoder": {"encoder_xformers_att_config": CODE},
    "attention, decoder": {"decoder_xformers_att_config": CODE},
    "attention, in a literal": {"encoder_xformers_att_config": f"{{'name': {CODE}}}"},
    "cutoff": {"adaptive_softmax_cutoff": CODE},
    "cutoff, bytes": {"adaptive_softmax_cutoff": CODE.encode()},
    "cutoff, in a list": {"adaptive_softmax_cutoff": f"[1, {CODE}]"},
    "cutoff, after a list": {"adaptive_softmax_cutoff": f"[1][{CODE} or 0]"},
    "cutoff, comprehension": {"adaptive_softmax_cutoff": f"[{CODE} for i in (1,)]"},
    "cutoff, lambda": {"adaptive_softmax_cutoff": f"(lambda: {CODE})()"},
    "cutoff, f-string": {"adaptive_softmax_cutoff": f'f"{{{CODE}}}"'},
    "cutoff, walrus": {"adaptive_softmax_cutoff": f"(x := {CODE})"},
    "cutoff, blanks": {"adaptive_softmax_cutoff": f" \t{CODE}\n"},
    "cutoff, reference": {"adaptive_softmax_cutoff": "${task.data}", "data": CODE},
    "convolutions": {**FCONV, "encoder_layers": CODE},
    "convolutions, bytes": {**FCONV, "encoder_layers": CODE.encode()},
    "convolutions, repeated": {**FCONV, "encoder_layers": f"[(8, 3)] * len(str({CODE}))"},
    "convolutions, decoder": {**FCONV, "decoder_layers": CODE},
    "convolutions, decoder, bytes": {**FCONV, "decoder_layers": CODE.encode()},
    "attention of convolutions": {**FCONV, "decoder_attention": CODE},
    "attention of convolutions, bytes": {**FCONV, "decoder_attention": CODE.encode()},
    "pretrained": {**SELF_ATT, "pretrained": CODE},
    "pretrained, bytes": {**SELF_ATT, "pretrained": CODE.encode()},
    "self-attention": {**SELF_ATT, "self_attention": CODE},
    "gated attention": {**SELF_ATT, "gated_attention": CODE},
    "project input": {**SELF_ATT, "project_input": CODE.encode()},
    "downsample": {**SELF_ATT, "downsample": CODE},
    "kernels": {**LIGHT, "encoder_kernel_size_list": CODE},
    "kernels, decoder": {**LIGHT, "decoder_kernel_size_list": CODE},
    "gates": {**LIGHT, "encoder_glu": CODE},
    "weights": {**LIGHT, "weight_softmax": CODE},
    "recurrent attention": {**LSTM, "decoder_attention": CODE},
    "recurrent cutoff": {**LSTM, "adaptive_softmax_cutoff": CODE},
    "a flag as a path": {"encoder_embed_path": "--user-dir=evil"},
    "a flag as a path, decoder": {"decoder_embed_path": "--user-dir=evil"},
    "a flag as a name": {"activation_fn": "--user-dir=evil"},
    "a flag as a number": {"encoder_layers": "--user-dir=evil"},
    "flags in a list": {"decoder_output_dim": ["--user-dir=evil", "--user-dir", "evil"]},
    "a folder of code": {"user_dir": "evil"},
    "a name that is code": {CODE: CODE, "encoder": {CODE: CODE, **DICT}},
    "a name of Python's": {"__class__": CODE, "__dict__": DICT},
}
TASK_ATTACKS = {
    "padding": {"left_pad_source": CODE},
    "padding, of many languages": {"task": "multilingual_translation", "left_pad_source": CODE},
    "padding, bytes": {"task": "multilingual_translation", "left_pad_target": CODE.encode()},
    "padding, online": {"task": "online_backtranslation", "left_pad_source": CODE},
    "padding, from many": {"task": "translation_multi_simple_epoch", "left_pad_source": CODE},
    "a program to start": {"task": "audio_pretraining", "post_save_script": "mkdir executed"},
    "a shell": {"data": "x; mkdir executed; ", "dataset_impl": "fasta"},
}


def with_settings(state: dict, changes: dict, group: str, form: str) -> dict:
    """A checkpoint with other settings in its cfg, or of the time before that in its args."""
    state = copy.deepcopy(state)
    model, task = vars(state["cfg"]["model"]), state["cfg"]["task"]
    if form == "args":
        state["cfg"], state["args"] = None, Namespace(**model)
        vars(state["args"]).update(changes)
    elif "task" in changes:  # one that fairseq knows by its flags
        state["cfg"]["task"] = Namespace(**{**model, **task, **changes, "_name": changes["task"]})
    elif group == "task":
        task.update(changes)
    else:
        model.update(changes)
        model["_name"] = model["arch"]
        task.update(data=changes.get("data", task["data"]))
    return state


def train_with_its_flags(path: Path) -> None:
    """As the fine-tuning scripts do: the words of a command line, read by fairseq-train."""
    sys.argv = ["fairseq-train", ".", "--optimizer", "adam", *model_flags(read_checkpoint(path))]
    parser = options.get_training_parser()  # imports --user-dir
    options.parse_args_and_arch(parser, sys.argv[1:])


def load_as_fairseq(path: Path, corpus: Path) -> None:
    """As fairseq-generate and fairseq-validate do with --user-dir, and torch.hub."""
    checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(corpus)})


def read_in_every_way(state: dict, corpus: Path) -> None:
    """Save it in the current folder and give it to all that reads checkpoints."""
    torch.save(state, "evil.pt")
    for read in (
        lambda path: model_of(read_checkpoint(path), str(path)),
        lambda path: load_as_fairseq(path, corpus),
        train_with_its_flags,
    ):
        # What it does with them is another matter than what must not happen.
        with suppress(Exception, SystemExit):
            read(Path("evil.pt"))
        GlobalHydra.instance().clear()
        assert not Path("executed").exists()


@pytest.fixture
def evil_folder(tmp_path, monkeypatch):
    """A current folder with code that must not be imported."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("import os\nos.mkdir('executed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "evil", lambda: os.mkdir("executed"), raising=False)
    monkeypatch.setattr(sys, "argv", ["fairseq-train"])
    monkeypatch.setattr(utils.import_user_module, "memo", set(), raising=False)
    yield tmp_path
    sys.modules.pop("evil", None)


# Those that get past the check are slow as args, since fairseq makes a cfg of these.
IN_ARGS = ["nested encoder", "nested decoder", "cutoff", "convolutions, bytes", "pretrained"]
IN_ARGS += ["padding, of many languages", "padding, bytes", "padding, online", "padding, from many"]
IN_ARGS += ["a flag as a path", "kernels"]
CASES = [(name, "cfg") for name in (*MODEL_ATTACKS, *TASK_ATTACKS)]


@pytest.mark.parametrize("name, form", [*CASES, *((name, "args") for name in IN_ARGS)])
def test_no_setting_of_a_checkpoint_runs(name, form, checkpoints, corpus, evil_folder):
    group, table = ("model", MODEL_ATTACKS) if name in MODEL_ATTACKS else ("task", TASK_ATTACKS)
    state = torch.load(checkpoints.dense, weights_only=True)
    read_in_every_way(with_settings(state, table[name], group, form), corpus)


# Random settings under every name that fairseq knows.

ARCHS = [
    *("transformer_18x6_tiny", "fconv", "fconv_self_att", "fconv_lm", "lightconv", "lightconv_lm"),
    *("lstm", "lstm_lm", "transformer_lm", "wav2vec", "wav2vec2", "hubert", "roberta", "bart_base"),
    *("s2t_berard", "s2t_transformer", "multilingual_transformer", "neuroprune_compact"),
    *("levenshtein_transformer", "transformer_align", "hf_gpt2", "convtransformer"),
]
TASKS = [
    *("translation", "translation_neuroprune", "multilingual_translation", "language_modeling"),
    *("online_backtranslation", "translation_multi_simple_epoch", "audio_pretraining"),
]
AFFIXES = [
    *("", "", "", " ", "[", "]", "(", ")", "1, ", "[1] * ", "* 2", "{'a': ", "}", "'", '"', "f'{"),
    *("lambda: ", "--user-dir=evil", "${", "}", "\n", "\\", "#", "<", ">", "1 + ", " or 1", ";"),
    *("-", "/", "a=", "*", "**", "\0", "\x1b[", "\uff08", "x.", ":=", "@", "not ", "[0][", "b''"),
]
affixes = st.lists(st.sampled_from(AFFIXES), max_size=3).map("".join)
plain_codes = st.sampled_from([CODE, "evil()", "evil", "--user-dir=evil", "[evil()]"])
codes = st.tuples(affixes, plain_codes, affixes).map("".join)
texts = st.one_of(plain_codes, codes, st.text("[](){}'\"\\,.:*+-=_ 0123abc\u3000\xa0", max_size=12))
leaves = st.one_of(
    *(texts, texts, texts.map(lambda t: t.encode("utf-8", "replace")), st.none(), st.booleans()),
    *(st.integers(-3, 10**3), st.floats(), st.just(torch.ones(1)), st.complex_numbers()),
)
names = st.one_of(
    texts, st.sampled_from(["xformers_att_config", "a", "_name", "arch", "model", "encoder"])
)


def containers(inner):
    settings = st.dictionaries(names, inner, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        settings,
        settings.map(lambda content: Namespace(**content)),
    )


values = st.recursive(leaves, containers, max_leaves=6)


@st.composite
def changed_settings(draw):
    """A model, a task and random values of some of the settings that they know."""
    arch, task = draw(st.sampled_from(ARCHS)), draw(st.sampled_from(TASKS))
    known = sorted(known_flags({"arch": arch, "task": task})[0])
    flags = st.one_of(st.sampled_from(known), st.sampled_from(["encoder", "decoder"]), names)
    changes = draw(st.dictionaries(flags, values, min_size=1, max_size=4))
    return {"arch": arch, "task": task, **changes}


def everything_in(value):
    """All values in it, and the names of settings."""
    yield value
    content = as_dict(value)
    if content is not None:
        yield from content
        value = content.values()
    if isinstance(value, (list, tuple, type({}.values()))):
        for inner in value:
            yield from everything_in(inner)


@fuzz(300)
@given(changed_settings(), st.sampled_from([dict, Namespace]))
@example({"arch": "fconv", "encoder_layers": "evil()"}, dict)
@example({"arch": "lstm", "encoder_embed_path": "--user-dir=evil"}, dict)
@example({"arch": "lstm", "encoder_embed_path": " --user-dir=evil"}, dict)
@example({"arch": "fconv", "encoder_layers": "[(1, 1)] * evil()"}, Namespace)
def test_whatever_is_taken_can_be_given_to_eval(evil_folder, changes, form):
    group = form(**{"_name": changes["arch"], **changes})
    try:
        taken, _ = check_settings({"model": group} if form is dict else group)
    except SettingsError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert check_settings(taken)[0] == taken
    for value in everything_in(taken):
        assert type(value) in (int, float, bool, type(None), str, list, tuple, dict, Namespace)
        if isinstance(value, str):
            assert (
                not value.strip().startswith("-")
                or value == "-"
                or value.strip(" -")[0] in "0123456789."
            )
            with suppress(Exception):
                eval(value, {})
            assert not Path("executed").exists(), value


@fuzz(12)
@given(changed_settings(), st.sampled_from(["cfg", "cfg", "args"]))
def test_no_random_setting_runs(checkpoints, corpus, evil_folder, changes, form):
    state = torch.load(checkpoints.dense, weights_only=True)
    read_in_every_way(with_settings(state, changes, "model", form), corpus)
