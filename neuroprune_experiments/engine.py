"""Translating a test set with a model that neuroprune-export made, as evaluation.py asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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


def load(folder: str | Path, threads: int, compute_type: str = "default") -> Any:
    """The translator of an exported model, on the CPU: as many workers of one thread as asked for.

    Args:
        folder: exported model.
        threads: in all.
        compute_type: CTranslate2's; "default" is that of the stored weights.

    Raises:
        SystemExit: one line that names the folder.
    """
    with refusing(f"--engine {folder}: no model that neuroprune-export made"):
        return ctranslate2.Translator(
            *(str(folder), "cpu"),
            **{"compute_type": compute_type, "inter_threads": threads, "intra_threads": 1},
        )


def timed(
    engine: Any,
    sources: Sequence[Sequence[str]],
    beam: int,
    batch_size: int,
    lenpen: float = 1.0,
    shortlist: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[list[str]], dict[str, Any]]:
    """Translate, as fairseq-generate would, and take the time.

    Args:
        engine: as :func:`load` returns it.
        sources: pieces of each sentence, without </s>.
        beam, batch_size, lenpen: as fairseq-generate takes them.
        shortlist: whether to use the export's, where it has one.
        clock: seconds. Of one worker processor time is less disturbed by other work.

    Returns:
        The pieces of the translations, and what evaluation.read_speed returns. Tokens are counted
        as by fairseq-generate, </s> included.
    """
    start = clock()
    found = engine.translate_batch(
        sources,
        beam_size=beam,
        length_penalty=lenpen,
        max_batch_size=batch_size,
        max_decoding_length=LONGEST,
        max_input_length=0,
        use_vmap=shortlist,
    )
    seconds = clock() - start
    pieces = [each.hypotheses[0] for each in found]
    tokens = sum(len(each) + 1 for each in pieces)
    return pieces, {
        "generation_seconds": round(seconds, 4),
        "generated_tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 2),
    }


def detokenised(pieces: Sequence[Sequence[str]]) -> list[str]:
    """Text of sentencepiece's pieces, as fairseq-generate's --post-process makes it."""
    return [data_utils.post_process(" ".join(each), "sentencepiece") for each in pieces]


def translate(
    folder: Path, data: str | Path, settings: GenerationSettings, shortlist: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Translate on the CPU, with as many threads as fairseq-generate has.

    Args:
        folder: exported model.
        data: prepared corpus.
        settings: subset, beam, lenpen and batch_size; ``flags`` must be empty.
        shortlist: whether to use the one that neuroprune-export --shortlist put there.

    Returns:
        The translations, detokenised, and the speed, with the engine's name and settings.

    Raises:
        SystemExit: one line that names the flag.
    """
    if settings.flags:
        refuse(f"--engine passes nothing on to fairseq-generate; drop {settings.flags[0]}")
    if shortlist and not (folder / FILE).is_file():
        refuse(f"--shortlist: {folder} has no {FILE}; export it with --shortlist")
    sources, threads = read_sources(data, settings.subset), torch.get_num_threads()
    engine = load(folder, threads)
    how = (settings.beam, settings.batch_size, settings.lenpen)
    pieces, speed = timed(engine, sources, *how, shortlist)
    return detokenised(pieces), {
        "engine": "CTranslate2",
        "compute_type": engine.compute_type,
        "engine_settings": {
            **{"version": ctranslate2.__version__, "folder": str(folder), "shortlist": shortlist}
        },
        "threads": threads,
        **speed,
    }
