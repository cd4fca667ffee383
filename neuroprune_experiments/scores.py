"""How good texts are beside references: BLEU of translations, ROUGE of summaries."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean
from typing import Any

from sacrebleu.metrics import BLEU

from neuroprune_experiments import require

ROUGE = ("rouge1", "rouge2", "rougeL")


def bleu_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Corpus BLEU of detokenised text, mixed case and lower-cased.

    Returns:
        bleu, bleu_lowercased (0 to 100) and the sacreBLEU signature of each.
    """
    scores: dict[str, Any] = {}
    for suffix, lowercase in (("", False), ("_lowercased", True)):
        metric = BLEU(lowercase=lowercase)
        scores[f"bleu{suffix}"] = round(metric.corpus_score(hypotheses, [references]).score, 4)
        scores[f"bleu{suffix}_signature"] = str(metric.get_signature())
    return scores


def rouge_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """ROUGE-1, -2 and -L of summaries (Lin, 2004), words stemmed, by the package rouge-score.

    Returns:
        rouge1, rouge2, rougeL: the F1 scores' means over the texts, 0 to 100; and what made them.
    """
    require("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE, use_stemmer=True)
    found = [scorer.score(expected, text) for text, expected in zip(hypotheses, references)]
    scores: dict[str, Any] = {
        name: round(100 * fmean(each[name].fmeasure for each in found), 4) for name in ROUGE
    }
    return {**scores, "rouge_signature": f"rouge-score {version('rouge-score')}, F1, stemmed"}


def text_scores(
    hypotheses: Sequence[str], references: Sequence[str], rouge: bool = False
) -> dict[str, Any]:
    """:func:`bleu_scores`, and for summaries :func:`rouge_scores`."""
    scores = bleu_scores(hypotheses, references)
    return scores | rouge_scores(hypotheses, references) if rouge else scores
