"""Tiny data of every family of tasks, and fairseq-train on it in this process."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options
from fairseq.logging import metrics
from fairseq_cli import preprocess, train

import neuroprune_fairseq
from neuroprune_fairseq.method.pruning import zero_heads_
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

USER_DIR = str(Path(neuroprune_fairseq.__file__).parent)
DIM, HEADS, NEURONS = 16, 4, 24


def stack(side, layers=2):
    return [
        *(f"--{side}-layers", str(layers), f"--{side}-embed-dim", str(DIM)),
        *(f"--{side}-attention-heads", str(HEADS), f"--{side}-ffn-embed-dim", str(NEURONS)),
    ]


def make_data(folder: Path) -> Path:
    """Folders of binarised data: "pairs", "text" and "sentences", labelled with 0 or 1."""
    rng = random.Random(5)
    for split, size in (("train", 24), ("valid", 8), ("test", 8)):
        lines = [" ".join(rng.choices("abcdefgh", k=rng.randrange(3, 9))) for _ in range(size)]
        (folder / f"{split}.de").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.en").write_text("\n".join(line[::-1] for line in lines) + "\n")
        (folder / f"{split}.label").write_text("".join(rng.choice("01") + "\n" for _ in lines))

    def binarise(to, source, *flags):
        texts = [f"--{split}pref={folder / split}" for split in ("train", "valid", "test")]
        if source == "label":
            texts = [f"{text}.label" for text in texts]
        arguments = [*texts, "--destdir", str(folder / to), *flags]
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))

    binarise("pairs", "de", "-s", "de", "-t", "en", "--joined-dictionary")
    for to in ("text", "sentences/input0"):
        for split in ("train", "valid", "test"):
            (folder / split).write_text((folder / f"{split}.de").read_text())
        binarise(to, "de", "--only-source")
    binarise("sentences/label", "label", "--only-source")
    for split in ("train", "valid", "test"):  # of a regression
        label = folder / "sentences" / "label" / f"{split}.label"
        label.write_text((folder / f"{split}.label").read_text())
    return folder


def train_on(data: Path, folder: Path, *flags) -> Path:
    """fairseq-train; returns the path of its last checkpoint."""
    vars(checkpoint_utils.save_checkpoint).clear()  # fairseq keeps the best loss of a run there
    vars(train.should_stop_early).clear()
    metrics.reset()
    arguments = [str(data), "--user-dir", USER_DIR, "--save-dir", str(folder)]
    arguments += ["--optimizer", "adam", "--lr", "1e-3", "--max-tokens", "200", "--batch-size", "8"]
    arguments += ["--num-workers", "0", "--cpu", "--log-format", "none", "--no-progress-bar"]
    parser = options.get_training_parser()
    train.main(options.parse_args_and_arch(parser, [*arguments, *map(str, flags)]))
    return folder / "checkpoint_last.pt"


@torch.no_grad()
def prune_(model):
    """One head more in every module, the last one whole; other neurons in every MLP."""
    generator = torch.Generator().manual_seed(6)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # fairseq starts with zeros, which would hide much
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    blocks = attention_blocks(model)
    for number, block in enumerate(blocks):
        zero_heads_(block, torch.arange(1 + number % (HEADS - 1)))
    zero_heads_(blocks[-1], torch.arange(HEADS))
    for number, block in enumerate(mlp_blocks(model)):
        block.fc1.weight[: 3 + number] = 0.0
        block.fc2.weight[:, -2:] = 0.0
