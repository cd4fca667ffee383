"""What a checkpoint is worth: fairseq-generate's translations, scores, sparsity, one line."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fairseq
import torch
from torch import nn
from tqdm import tqdm

import neuroprune_fairseq
from neuroprune_experiments.provenance import git_commit, hardware
from neuroprune_experiments.scores import text_scores
from neuroprune_fairseq.files.atomic import replacing, working_folder
from neuroprune_fairseq.files.checkpoint import language_pair, read_checkpoint, write_checkpoint
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.files.models import check_dictionaries, model_of, stored_weights
from neuroprune_fairseq.method.pruning import zero_small_weights_
from neuroprune_fairseq.method.sparsity import measure

PACKAGE = Path(neuroprune_fairseq.__file__).resolve().parent
_SPEED = re.compile(
    r"Translated ([\d,]+) sentences \(([\d,]+) tokens\) in ([\d.]+)s .* ([\d.]+) tokens/s"
)


@dataclass(frozen=True)
class GenerationSettings:
    """How translations are made; ``flags`` are passed to fairseq-generate as they are."""

    subset: str = "test"
    beam: int = 5
    lenpen: float = 1.0
    batch_size: int = 128
    flags: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The arguments of fairseq-generate."""
        return [
            *("--gen-subset", self.subset, "--beam", str(self.beam)),
            *("--lenpen", str(self.lenpen), "--batch-size", str(self.batch_size)),
            *("--post-process", "sentencepiece"),
            # fairseq's default of 8 silently drops up to 7 sentences at the end of a corpus.
            *("--required-batch-size-multiple", "1"),
            *self.flags,
        ]

    def facts(self) -> dict[str, Any]:
        """What a record holds of them."""
        how = {"beam": self.beam, "batch_size": self.batch_size}
        return {"subset": self.subset, "generation_settings": self.arguments(), **how}

    def suffix(self) -> str:
        """What tells outputs of one checkpoint apart: the subset and all that is not default."""
        plain = GenerationSettings(self.subset)
        parts = [f"generate-{self.subset}"]
        for name in ("beam", "lenpen", "batch_size"):
            if getattr(self, name) != getattr(plain, name):
                parts.append(f"{name.replace('_', '-')}-{getattr(self, name):g}")
        if self.flags:
            digest = hashlib.sha256("\0".join(self.flags).encode("utf-8", "replace")).hexdigest()
            parts.append(f"flags-{digest[:8]}")
        return ".".join(parts)


def generate(
    checkpoint: str | Path,
    data: str | Path,
    settings: GenerationSettings,
    output: Path,
    sentences: int | None = None,
) -> None:
    """Run fairseq-generate with only ``--user-dir`` added.

    Args:
        checkpoint: any checkpoint that fairseq loads.
        data: prepared corpus.
        settings: beam and so on.
        output: its whole output; written under a temporary name and renamed.
        sentences: how many there are, for the progress bar.

    Raises:
        SystemExit: one line, when fairseq-generate fails.
    """
    command = [sys.executable, "-m", "fairseq_cli.generate", str(data), f"--path={checkpoint}"]
    command += ["--user-dir", str(PACKAGE), *settings.arguments()]
    # No modules from the folder in which the user happens to be, and UTF-8 on every terminal.
    plain = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    text = {"encoding": "utf-8", "errors": "backslashreplace"}
    pipes = {"stdout": subprocess.PIPE, "env": {**os.environ, **plain}, **text}
    with (
        refusing(
            f"{output} cannot be written; make room or copy the checkpoint elsewhere", OSError
        ),
        replacing(output) as temporary,
        temporary.open("w", encoding="utf-8") as log,
        tempfile.TemporaryFile("w+", **text) as errors,
        tqdm(total=sentences, desc="Translating", unit=" sentences", disable=None) as progress,
        subprocess.Popen(command, stderr=errors, **pipes) as process,
    ):
        for line in process.stdout:
            log.write(line)
            progress.update(line.startswith("H-"))
        # fairseq logs to stdout or stderr, as other packages have set up logging before it.
        status = process.wait()
        errors.seek(0)
        messages = errors.read().strip()
        log.write(f"{messages}\n")
        if status:
            reason = messages.split("\n")[-1] or f"exit status {status}"
            refuse(f"fairseq-generate failed: {reason}")


def read_hypotheses(output: Path) -> list[str]:
    """The best translation of every sentence, in the order of the corpus.

    fairseq-generate sorts sentences by length; the number in ``H-<number>`` is the line.

    Args:
        output: what :func:`generate` wrote.

    Raises:
        SystemExit: one line, when a sentence of the corpus is missing.
    """
    found: dict[int, str] = {}
    # Not splitlines: a translation may hold characters that it takes for line ends.
    for line in output.read_text(encoding="utf-8").split("\n"):
        if line.startswith("H-"):
            number, _, hypothesis = line[2:].split("\t", 2)
            found.setdefault(int(number), hypothesis)
    if sorted(found) != list(range(len(found))):
        refuse(f"{output} lacks translations of some sentences before number {max(found)}")
    return [found[number] for number in range(len(found))]


def read_speed(output: Path) -> dict[str, float]:
    """Generation time as fairseq-generate itself reports it, loading excluded.

    Returns:
        generation_seconds, generated_tokens, tokens_per_second.
    """
    match = _SPEED.search(output.read_text(encoding="utf-8"))
    if not match:
        refuse(f"{output} lacks fairseq-generate's line on its speed")
    return {
        "generation_seconds": float(match[3]),
        "generated_tokens": int(match[2].replace(",", "")),
        "tokens_per_second": float(match[4]),
    }


def read_references(data: str | Path, subset: str) -> list[str]:
    """Raw text of the target side, one sentence a line."""
    _, target = language_pair(data, subset)
    path = Path(data) / "text" / f"{subset}.{target}"
    if not path.is_file():
        refuse(f"--data {data} lacks text/{subset}.{target}, the reference for BLEU")
    with refusing(f"{path} cannot be read as text", OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def training_facts(checkpoint: Path) -> dict[str, Any]:
    """What the training scripts left beside a checkpoint: command line and wall seconds."""
    facts: dict[str, Any] = {}
    # Files of these names that the scripts did not write tell nothing.
    with suppress(OSError, ValueError):
        text = (checkpoint.parent / "command.txt").read_text(encoding="utf-8")
        facts["train_command"] = text.strip()
    with suppress(OSError, ValueError, LookupError, TypeError):
        finished = json.loads((checkpoint.parent / "finished.json").read_text(encoding="utf-8"))
        facts["train_seconds"] = finished["train_seconds"]
    return facts


def with_weights_of(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content with other weights and without optimizer state.

    Args:
        model: whose weights it is to hold.
        state: the content; stays as it is.
    """
    weights = stored_weights(model, state["model"])
    return {**state, "model": weights, "last_optimizer_state": None}


def surroundings() -> dict[str, str]:
    """What a measurement depends on beside its command, and when it was made."""
    return {
        "git_commit": git_commit(),
        "hardware": hardware(),
        "torch": torch.__version__,
        "fairseq": fairseq.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _generated(
    path: Path, data: str | Path, settings: GenerationSettings, output: Path, sentences: int
) -> tuple[list[str], dict[str, Any]]:
    """fairseq-generate's translations, and its speed."""
    generate(path, data, settings, output, sentences)
    hypotheses = read_hypotheses(output)
    if len(hypotheses) != sentences:
        refuse(f"{output}: {len(hypotheses)} translations, but {sentences} references")
    half = {"--fp16": "float16", "--bf16": "bfloat16"}
    kind = next((half[flag] for flag in settings.flags if flag in half), "float32")
    # The other process takes OpenMP's number of threads from the same environment.
    facts = {"engine": "fairseq", "compute_type": kind, "threads": torch.get_num_threads()}
    return hypotheses, {**facts, **read_speed(output)}


def _facts(checkpoint: Path, model: nn.Module) -> dict[str, Any]:
    """What a record holds of a model, wherever it is translated."""
    return {
        **measure(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **training_facts(checkpoint),
        "checkpoint": str(checkpoint),
        **surroundings(),
    }


def evaluate(
    checkpoint: str | Path,
    data: str | Path,
    settings: Sequence[GenerationSettings] = (GenerationSettings(),),
    tolerance: float = 0.0,
    engine: Path | None = None,
    shortlist: bool = False,
    rouge: bool = False,
) -> list[dict[str, Any]]:
    """Measure one checkpoint, which is read once, then generate and score.

    Args:
        checkpoint: any checkpoint of fairseq's translation.
        data: prepared corpus.
        settings: how to generate, once for each.
        tolerance: prunable weights below it are zeroed first, in a temporary copy.
        engine: what neuroprune-export made of the checkpoint, to translate in place of fairseq.
        shortlist: whether the engine uses its own.
        rouge: whether to score summaries, too.

    Returns:
        A record for each of the settings. fairseq-generate's output stays by the checkpoint.
    """
    checkpoint = Path(checkpoint)
    references = [read_references(data, each.subset) for each in settings]
    state = read_checkpoint(checkpoint)
    for each in settings:
        check_dictionaries(state, checkpoint, data, language_pair(data, each.subset))
    model = model_of(state, checkpoint)
    zero_small_weights_(model, tolerance)
    facts = {**_facts(checkpoint, model), "data": str(data), "tolerance": tolerance}
    records = []
    with working_folder(tempfile.gettempdir(), "checkpoint") as folder:
        path, ending = checkpoint, ""
        if tolerance:
            path, ending = folder / "checkpoint.pt", f".tolerance-{tolerance:g}"
            write_checkpoint(with_weights_of(model, state), path)
        elif os.pathsep in str(checkpoint):  # which fairseq would take for the names of several
            path = folder / "checkpoint.pt"
            path.symlink_to(checkpoint.resolve())
        for each, expected in zip(settings, references):
            if engine is None:
                output = checkpoint.with_name(f"{checkpoint.stem}.{each.suffix()}{ending}.txt")
                texts, speed = _generated(path, data, each, output, len(expected))
            else:
                from neuroprune_experiments.engine import translate

                texts, speed = translate(engine, data, each, shortlist)
            records.append(text_scores(texts, expected, rouge) | speed | each.facts() | facts)
    return records
