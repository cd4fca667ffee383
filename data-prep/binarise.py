"""From text to a fairseq data folder: joint sentencepiece, then fairseq-preprocess.

Languages end the names of the files; a text of one language alone has the name "" for it.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from errors import PrepError
from parallel_text import Text, write_lines
from tqdm import tqdm

SPLITS = ("train", "valid", "test")


def check_fairseq() -> None:
    """Fails before the long work where fairseq is not installed.

    Raises:
        PrepError: This interpreter has no fairseq.
    """
    if importlib.util.find_spec("fairseq_cli") is None:
        raise PrepError(
            f"{sys.executable} has no fairseq; pip install -e '.[fairseq]' in the checkout"
        )


def train_sentencepiece(texts: list[list[str]], vocab_size: int) -> bytes:
    """Trains one unigram model on all the texts.

    Args:
        texts: Training sentences of each language. The order is part of the result.
        vocab_size: Pieces wanted. A small text may give fewer.

    Returns:
        The serialised model.

    Raises:
        PrepError: The vocabulary is too small for the characters of the text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # fairseq's dictionary has its own <s>, </s> and <pad>.
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            # Several threads sum in another order and may give another model.
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise PrepError(_why_no_model(str(error), vocab_size)) from error
    return model.getvalue()


def _why_no_model(error: str, vocab_size: int) -> str:
    too_small = re.search(r"smaller than required_chars\. \d+ vs (\d+)", error)
    if too_small:
        needed = too_small.group(1)
        return f"--vocab-size {vocab_size}: too small, this text needs more than {needed} pieces"
    reason = error.strip().splitlines()[-1] if error.strip() else "no reason given"
    return f"--vocab-size {vocab_size}: sentencepiece cannot train on this text ({reason})"


def _encoded(model: bytes, lines: list[str], name: str) -> Iterator[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for line in tqdm(lines, desc=f"pieces of {name}", unit="line", disable=None, leave=False):
        yield " ".join(processor.encode(line, out_type=str))


def _file_name(split: str, language: str) -> str:
    return f"{split}.{language}" if language else split


def write_texts(splits: dict[str, Text], folder: Path, languages: tuple[str, ...]) -> None:
    """Writes text/SPLIT.LANGUAGE, one sentence a line."""
    (folder / "text").mkdir()
    for split in SPLITS:
        for language, lines in zip(languages, splits[split].sides):
            write_lines(folder / "text" / _file_name(split, language), lines)


def binarise(
    splits: dict[str, Text],
    folder: Path,
    languages: tuple[str, ...],
    vocab_size: int,
    workers: int,
) -> int:
    """Fills `folder` with spm.model, the dictionaries and the binarised splits.

    Args:
        splits: train, valid and test.
        folder: An existing folder.
        languages: Source and target, or one.
        vocab_size: Sentencepiece pieces wanted.
        workers: Processes for fairseq-preprocess; they don't change its output.

    Returns:
        The number of sentencepiece pieces made.
    """
    sides = dict(zip(languages, splits["train"].sides))
    # In alphabetical order, so that both directions of a pair share one model.
    model = train_sentencepiece([sides[language] for language in sorted(languages)], vocab_size)
    (folder / "spm.model").write_bytes(model)
    pieces = folder / "pieces"
    pieces.mkdir()
    for split in SPLITS:
        for language, lines in zip(languages, splits[split].sides):
            name = _file_name(split, language)
            write_lines(pieces / name, _encoded(model, lines, name))
    _run_fairseq_preprocess(pieces, folder, languages, workers)
    for split in SPLITS:
        for language in languages:
            (pieces / _file_name(split, language)).unlink()
    pieces.rmdir()
    return sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()


def _preprocess_command() -> list[str]:
    # The script beside this interpreter belongs to the same environment.
    script = Path(sys.executable).with_name("fairseq-preprocess")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "fairseq_cli.preprocess"]


def _run_fairseq_preprocess(
    pieces: Path, folder: Path, languages: tuple[str, ...], workers: int
) -> None:
    command = _preprocess_command()
    if len(languages) == 1:
        command += ["--only-source"]
    else:
        command += ["--source-lang", languages[0], "--target-lang", languages[1]]
        command += ["--joined-dictionary"]
    for split in SPLITS:
        command += [f"--{split}pref", str(pieces / split)]
    command += ["--destdir", str(folder), "--workers", str(workers)]
    # No modules from where the user happens to be, and UTF-8 whatever the terminal's encoding is.
    safe = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command,
        env={**os.environ, **safe},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else "no message"
        raise PrepError(f"fairseq-preprocess failed with status {done.returncode}: {reason}")
    # Its log names the temporary folder; what matters of it is in prepared.json.
    (folder / "preprocess.log").unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Writes indented JSON with a final line feed."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
