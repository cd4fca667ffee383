"""Does the exported model translate as fairseq-generate does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import nn
from tqdm import tqdm

BEAM, BATCH_SIZE, LONGEST = 5, 32, 200
# Two different translations whose scores differ by less are equally good for both engines.
TIE = 1e-4


@dataclass(frozen=True)
class Translation:
    """The best hypothesis of a sentence."""

    tokens: tuple[str, ...]  # without </s>
    score: float  # log-probability per token, </s> included


def fairseq_translations(
    model: nn.Module, dataset: Any, target: Dictionary, numbers: Sequence[int]
) -> list[Translation]:
    """Translate sentences of a fairseq dataset with fairseq's own beam search.

    Args:
        model: in evaluation mode.
        dataset: of pairs, as a translation task loads it.
        target: target dictionary.
        numbers: which sentences.

    Returns:
        The best hypothesis of each.
    """
    generator = SequenceGenerator([model], target, beam_size=BEAM, max_len_b=LONGEST)
    by_length = sorted(numbers, key=lambda number: len(dataset[number]["source"]))
    found = {}
    for start in tqdm(range(0, len(by_length), BATCH_SIZE), desc="fairseq", unit="batch"):
        chunk = by_length[start : start + BATCH_SIZE]
        sample = dataset.collater([dataset[number] for number in chunk])
        hypotheses = generator.generate([model], sample)
        for number, beams in zip(sample["id"].tolist(), hypotheses):
            tokens = tuple(target[token] for token in beams[0]["tokens"][:-1].tolist())
            found[number] = Translation(tokens, float(beams[0]["score"]))
    return [found[number] for number in numbers]


def engine_translations(
    folder: Path, dataset: Any, source: Dictionary, numbers: Sequence[int]
) -> list[Translation]:
    """Translate the same sentences with CTranslate2.

    Args:
        folder: exported model.
        dataset: as for :func:`fairseq_translations`.
        source: source dictionary.
        numbers: which sentences.
    """
    translator = ctranslate2.Translator(str(folder), device="cpu", intra_threads=1)
    sources = [dataset[number]["source"].tolist()[:-1] for number in numbers]  # without </s>
    results = translator.translate_batch(
        [[source[token] for token in tokens] for tokens in sources],
        beam_size=BEAM,
        max_decoding_length=LONGEST,
        max_batch_size=BATCH_SIZE,
        return_scores=True,
    )
    return [Translation(tuple(found.hypotheses[0]), found.scores[0]) for found in results]


@dataclass(frozen=True)
class Agreement:
    """How far two lists of translations agree."""

    same: float  # share of equal or equally good translations, in [0, 1]
    largest_score_difference: float  # among equal translations


def compare(expected: Sequence[Translation], found: Sequence[Translation]) -> Agreement:
    """Compare translations sentence by sentence.

    Args:
        expected: of fairseq.
        found: of the engine, in the same order.
    """
    pairs = list(zip(expected, found))
    differences = [abs(a.score - b.score) for a, b in pairs if a.tokens == b.tokens]
    ties = sum(a.tokens != b.tokens and abs(a.score - b.score) < TIE for a, b in pairs)
    same = (len(differences) + ties) / max(1, len(pairs))
    return Agreement(same, max(differences, default=0.0))
