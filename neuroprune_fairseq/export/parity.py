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


class Engine:
    """An exported model and the sentences that it is tried on."""

    def __init__(
        self, folder: Path, dataset: Any, source: Dictionary, numbers: Sequence[int]
    ) -> None:
        """Load the model.

        Args:
            folder: exported model.
            dataset: as for :func:`fairseq_translations`.
            source: source dictionary.
            numbers: which sentences.
        """
        self._engine = ctranslate2.Translator(str(folder), device="cpu", intra_threads=1)
        sources = [dataset[number]["source"].tolist()[:-1] for number in numbers]  # no </s>
        self.sources = [[source[token] for token in tokens] for tokens in sources]

    def translations(self, shortlist: bool = False) -> list[Translation]:
        """The engine's own best hypothesis of each sentence, if asked with its shortlist."""
        results = self._engine.translate_batch(
            self.sources,
            use_vmap=shortlist,
            beam_size=BEAM,
            max_decoding_length=LONGEST,
            max_batch_size=BATCH_SIZE,
            return_scores=True,
        )
        return [Translation(tuple(found.hypotheses[0]), found.scores[0]) for found in results]

    def scores(self, translations: Sequence[Translation]) -> list[float]:
        """What the engine's model gives to other translations, as log-probability per token."""
        results = self._engine.score_batch(
            self.sources,
            [list(translation.tokens) for translation in translations],
            max_batch_size=BATCH_SIZE,
        )
        return [sum(found.log_probs) / len(found.log_probs) for found in results]


@dataclass(frozen=True)
class Agreement:
    """How far an engine agrees with fairseq."""

    same: float  # share of equal or equally good outputs, in [0, 1]
    score_difference: float  # largest difference between scores of the same output


def compare(
    expected: Sequence[Translation], found: Sequence[Translation], scores: Sequence[float]
) -> Agreement:
    """Compare two searches and two models, sentence by sentence.

    Args:
        expected: translations of fairseq.
        found: translations of the engine, in the same order.
        scores: what the engine gives to the expected translations. (The scores that it gives
            to its own are no measure: at the longest length it leaves out that of </s>, and
            it forbids empty translations before instead of after the softmax.)
    """
    same = [
        one.tokens == other.tokens or abs(one.score - other.score) < TIE
        for one, other in zip(expected, found)
    ]
    differences = [abs(one.score - score) for one, score in zip(expected, scores)]
    return Agreement(sum(same) / max(1, len(same)), max(differences, default=0.0))


def check_translations(
    folder: Path, model: nn.Module, task: Any, dataset: Any, numbers: Sequence[int]
) -> Agreement:
    """Translate sentences with fairseq and with an exported model.

    Args:
        folder: exported model.
        model: what it was exported from, in evaluation mode.
        task: has the dictionaries.
        dataset: as for :func:`fairseq_translations`.
        numbers: which sentences.
    """
    expected = fairseq_translations(model, dataset, task.target_dictionary, numbers)
    engine = Engine(folder, dataset, task.source_dictionary, numbers)
    return compare(expected, engine.translations(), engine.scores(expected))
