"""Translating a test set with a model that neuroprune-export made, as evaluation.py asks for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import torch
from fairseq.data import Dictionary, data_utils

from neuroprune_fairseq.export.shortlist import FILE
from neuroprune_fairseq.files.checkpoint import language_pair
from neuroprune_fairseq.files.errors import refuse, refusing

if TYPE_CHECKING:
    from neuroprune_experiments.evaluation import GenerationSettings

LONGEST = 200  # fairseq-generate's --max-len-b


def read_sources(data: str | Path, subset: str) -> list[list[str]]:
    """The binarised source sentences as fairseq-generate reads them, without </s>."""
    source, target = language_pair(data, subset)
    dictionary = Dictionary.load(str(Path(data) / f"dict.{source}.txt"))
    stem = Path(data) / f"{subset}.{source}-{target}.{source}"
    with refusing(f"--subset {subset}: {stem} cannot be read"):
        sentences = data_utils.load_indexed_dataset(str(stem), dictionary)
        return [[dictionary[i] for i in sentence.tolist()[:-1]] for sentence in sentences]


def translate(
    folder: Path, data: str | Path, settings: GenerationSettings, shortlist: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Translate on the CPU, with as many workers of one thread as fairseq-generate has threads.

    Args:
        folder: exported model.
        data: prepared corpus.
        settings: subset, beam, lenpen and batch_size; ``flags`` must be empty.
        shortlist: whether to use the one that neuroprune-export --shortlist put there.

    Returns:
        The translations, detokenised, and what evaluation.read_speed returns, with the engine's
        name and settings. Tokens are counted as by fairseq-generate, </s> included; the time is
        that of translating, loading excluded.

    Raises:
        SystemExit: one line that names the flag.
    """
    if settings.flags:
        refuse(f"--engine passes nothing on to fairseq-generate; drop {settings.flags[0]}")
    if shortlist and not (folder / FILE).is_file():
        refuse(f"--shortlist: {folder} has no {FILE}; export it with --shortlist")
    sources, threads = read_sources(data, settings.subset), torch.get_num_threads()
    with refusing(f"--engine {folder}: no model that neuroprune-export made"):
        engine = ctranslate2.Translator(
            str(folder), device="cpu", inter_threads=threads, intra_threads=1
        )
    start = time.perf_counter()
    found = engine.translate_batch(
        sources,
        beam_size=settings.beam,
        length_penalty=settings.lenpen,
        max_batch_size=settings.batch_size,
        max_decoding_length=LONGEST,
        max_input_length=0,
        use_vmap=shortlist,
    )
    seconds = time.perf_counter() - start
    pieces = [each.hypotheses[0] for each in found]
    tokens = sum(len(each) + 1 for each in pieces)
    facts = {"compute_type": engine.compute_type, "inter_threads": threads, "intra_threads": 1}
    facts |= {"shortlist": shortlist}
    return [data_utils.post_process(" ".join(each), "sentencepiece") for each in pieces], {
        "engine": f"CTranslate2 {engine.compute_type}{' with shortlist' * shortlist}",
        "engine_settings": {**facts, "version": ctranslate2.__version__, "folder": str(folder)},
        "generation_seconds": round(seconds, 4),
        "generated_tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 2),
    }
