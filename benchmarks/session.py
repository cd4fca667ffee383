"""A fairseq training that makes one update when it is asked to, so that two can take turns."""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.data import iterators
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from fairseq_cli import preprocess
from torch import nn

import neuroprune_fairseq  # noqa: F401  (registers)

STOCK = ["--task", "translation", "--criterion", "label_smoothed_cross_entropy"]
OURS = [
    *("--task", "translation_neuroprune"),
    *("--criterion", "label_smoothed_cross_entropy_neuroprune"),
]


def random_corpus(folder: Path, vocabulary: int, tokens: int) -> Path:
    """A binarised corpus of random sentences of 8 to 32 tokens.

    Args:
        folder: where it goes.
        vocabulary: number of different tokens.
        tokens: of either language, at least.

    Returns:
        The folder that fairseq takes.
    """
    draw = random.Random(1)
    lengths = [draw.randrange(8, 32) for _ in range(tokens // 16)]
    for language in ("de", "en"):
        lines = (" ".join(f"w{draw.randrange(vocabulary)}" for _ in range(n)) for n in lengths)
        (folder / f"train.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["-s", "de", "-t", "en", "--joined-dictionary", "--trainpref", str(folder / "train")]
    flags += ["--destdir", str(folder / "bin")]
    preprocess.main(options.get_preprocessing_parser().parse_args(flags))
    return folder / "bin"


class Session:
    """One training: its trainer, and the batches of an epoch in fairseq's own order.

    Two sessions of the same corpus and seed see the same batches, and draw the same random
    numbers: fairseq seeds every update.
    """

    def __init__(
        self, data: Path, arch: str, max_tokens: int, device: str, flags: list[str]
    ) -> None:
        """Set up as fairseq-train does.

        Args:
            data: prepared corpus.
            arch: architecture.
            max_tokens: of a batch.
            device: "cpu" or "cuda".
            flags: of fairseq-train, with task and criterion.
        """
        arguments = [str(data), "--arch", arch, "--share-all-embeddings", *flags]
        arguments += ["--max-tokens", str(max_tokens), "--save-dir", str(data / "unused")]
        arguments += ["--optimizer", "adam", "--lr", "1e-4", "--dropout", "0.1"]
        arguments += ["--num-workers", "0"]
        arguments += ["--label-smoothing", "0.1", "--max-epoch", "1", "--log-format", "none"]
        arguments += ["--cpu"] if device == "cpu" else []
        (data / "unused").mkdir(exist_ok=True)
        parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
        cfg = convert_namespace_to_omegaconf(parsed)
        self.task = tasks.setup_task(cfg.task)
        model = self.task.build_model(cfg.model)
        criterion = self.task.build_criterion(cfg.criterion)
        self.trainer = Trainer(cfg, self.task, model, criterion)
        self._device = device
        self.start()

    def start(self) -> None:
        """Begin an epoch, from the first batch."""
        epoch = self.trainer.get_train_iterator(epoch=1)
        self._batches = iterators.GroupedIterator(epoch.next_epoch_itr(shuffle=True), 1)
        self.trainer.begin_epoch(1)

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.trainer.get_model()

    @property
    def updates_left(self) -> int:
        """Batches before the last one of the epoch, which would end it."""
        return len(self._batches) - self._batches.n - 1

    def update(self) -> float:
        """Make one update; returns its seconds, without the loading of the batch."""
        samples = next(self._batches)
        self._synchronize()
        start = time.perf_counter()
        self.trainer.train_step(samples)
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
