"""Tiny models, a tiny binarised corpus, and fairseq's real command lines in this process."""

from __future__ import annotations

import logging
import random
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.data import Dictionary
from fairseq.logging import metrics
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerModel
from fairseq_cli import preprocess, train, validate
from families import USER_DIR, make_data

import neuroprune_fairseq  # noqa: F401  (registers)
from neuroprune_fairseq.cli import compact as compact_command
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.models import model_of
from neuroprune_fairseq.method.pruning import zero_heads_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

TRAIN_FLAGS = [
    *("--user-dir", USER_DIR, "--arch", "transformer_18x6_tiny", "--share-all-embeddings"),
    *("--optimizer", "adam", "--lr", "1e-3", "--weight-decay", "1e-4", "--dropout", "0.1"),
    *("--label-smoothing", "0.1", "--max-tokens", "120", "--num-workers", "0", "--cpu"),
    *("--no-progress-bar", "--log-format", "none"),
]


@pytest.fixture(autouse=True)
def keep_log_handlers(monkeypatch):
    """fairseq-validate removes the log's handlers, pytest's too; commands set its level."""
    monkeypatch.setattr(validate, "reset_logging", lambda: None)
    loggers = [logging.getLogger(name) for name in ("", "fairseq")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)


@pytest.fixture
def build_model():
    """Builds a transformer of an architecture, with settings of its own, from a seed."""

    def build(arch="transformer_18x6_tiny", seed=1, **settings):
        torch.manual_seed(seed)
        dictionary = Dictionary()
        for i in range(20):
            dictionary.add_symbol(f"w{i}")
        args = Namespace(**{"share_all_embeddings": True, **settings})
        ARCH_CONFIG_REGISTRY[arch](args)
        languages = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
        return TransformerModel.build_model(args, languages).eval()

    return build


@pytest.fixture
def sample():
    """A batch of 3 source and target sentences of 7 tokens of build_model's dictionary."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(4, 24, (3, 7), generator=generator)
    return {
        "net_input": {
            "src_tokens": tokens,
            "src_lengths": torch.full((3,), 7),
            "prev_output_tokens": tokens.flip(1),
        },
        "target": tokens,
        "ntokens": 21,
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A binarised corpus: 120 pairs whose target is the source reversed."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(3)
    for split, size in (("train", 120), ("valid", 20), ("test", 20)):
        lines = [[f"w{rng.randrange(30)}" for _ in range(rng.randrange(3, 9))] for _ in range(size)]
        for language, words in (("de", lines), ("en", [line[::-1] for line in lines])):
            text = "".join(" ".join(line) + "\n" for line in words)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
    flags = ["-s", "de", "-t", "en", "--joined-dictionary", "--destdir", str(folder / "bin")]
    for split in ("train", "valid", "test"):
        flags += [f"--{split}pref", str(folder / split)]
    preprocess.main(options.get_preprocessing_parser().parse_args(flags))
    return folder / "bin"


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Folders of binarised data for other tasks, too: families.make_data."""
    return make_data(tmp_path_factory.mktemp("families"))


@pytest.fixture
def run_train(corpus, tmp_path):
    """Runs fairseq-train on the tiny corpus; returns the last checkpoint's contents."""

    def run(*flags, name="run", task="translation_neuroprune", criterion=None) -> dict:
        criterion = criterion or "label_smoothed_cross_entropy_neuroprune"
        for state in (checkpoint_utils.save_checkpoint, train.should_stop_early):
            vars(state).clear()  # fairseq keeps the best loss of a run on the function
        metrics.reset()
        parser = options.get_training_parser()
        arguments = [str(corpus), *TRAIN_FLAGS, "--save-dir", str(tmp_path / name)]
        arguments += ["--task", task, "--criterion", criterion, *map(str, flags)]
        args = options.parse_args_and_arch(parser, arguments)
        args.tpu = False  # fairseq takes --bf16 to mean a TPU
        train.main(args)
        last = tmp_path / name / "checkpoint_last.pt"
        return checkpoint_utils.load_checkpoint_to_cpu(str(last))

    return run


@pytest.fixture(scope="session")
def checkpoints(corpus, tmp_path_factory):
    """Checkpoints of one tiny training: as trained, pruned, and compact with its optimizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    arguments = [str(corpus), *TRAIN_FLAGS, "--save-dir", str(folder)]
    arguments += ["--encoder-layers", "2", "--decoder-layers", "2", "--max-epoch", "1"]
    arguments += ["--seed", "4", "--task", "translation_neuroprune"]
    arguments += ["--criterion", "label_smoothed_cross_entropy_neuroprune"]
    train.main(options.parse_args_and_arch(options.get_training_parser(), arguments))
    dense, pruned, small = (folder / f"{name}.pt" for name in ("dense", "pruned", "small"))
    (folder / "checkpoint_last.pt").rename(dense)
    state = read_checkpoint(dense)
    model = model_of(state, str(dense))
    prune_(model)
    state["model"] = {name: model.state_dict()[name] for name in state["model"]}
    torch.save(state, pruned)
    compact_command.main([str(pruned), str(small), "--keep-optimizer"])
    return Namespace(dense=dense, pruned=pruned, small=small)


@torch.no_grad()
def prune_(model):
    """Other numbers of heads in every module, none in one; half of all neurons."""
    for heads, block in enumerate(attention_blocks(model)):
        zero_heads_(block, torch.arange(heads + 1))
    for block in mlp_blocks(model):
        block.fc1.weight[:30] = 0.0
        block.fc2.weight[:, 30:48] = 0.0
