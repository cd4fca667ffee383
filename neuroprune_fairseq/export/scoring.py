"""What an exported model's translations are worth: BLEU, with a shortlist and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairseq.data import Dictionary, data_utils
from sacrebleu.metrics import BLEU

from neuroprune_fairseq.export.parity import Engine


def plain_text(tokens: Sequence[str], target: Dictionary) -> str:
    """Pieces of sentencepiece or subword-nmt put together, whichever a dictionary holds."""
    symbols = target.symbols
    kind = "sentencepiece" if any(symbol.startswith("\u2581") for symbol in symbols) else None
    if kind is None and any(symbol.endswith("@@") for symbol in symbols):
        kind = "subword_nmt"
    return data_utils.post_process(" ".join(tokens), kind)


def references(dataset: Any, numbers: Sequence[int], target: Dictionary) -> list[str]:
    """The targets of sentences as text.

    Args:
        dataset: of pairs, as a translation task loads it.
        numbers: which sentences.
        target: target dictionary.
    """
    targets = (dataset[number]["target"].tolist()[:-1] for number in numbers)
    return [plain_text([target[token] for token in tokens], target) for tokens in targets]


def bleu(
    translations: Sequence[Sequence[str]], expected: Sequence[str], target: Dictionary
) -> float:
    """Corpus BLEU of sacreBLEU, 0 to 100; of text, where the pieces can be put together.

    Args:
        translations: tokens of each sentence.
        expected: as :func:`references` returns them.
        target: target dictionary.
    """
    texts = [plain_text(tokens, target) for tokens in translations]
    return BLEU().corpus_score(texts, [list(expected)]).score


def compare_shortlist(engine: Engine, expected: Sequence[str], target: Dictionary) -> str:
    """One line on what a model's shortlist changes.

    Args:
        engine: a model with vmap.txt, and sentences.
        expected: their references as text.
        target: target dictionary.
    """
    full, short = (
        [each.tokens for each in engine.translations(shortlist)] for shortlist in (False, True)
    )
    same = sum(one == other for one, other in zip(full, short)) / max(1, len(full))
    scores = [bleu(found, expected, target) for found in (full, short)]
    return f"{same:.1%} of translations the same, BLEU {scores[1]:.2f} (without: {scores[0]:.2f})"
