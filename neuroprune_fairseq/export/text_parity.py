"""Does the exported language model score and continue texts as fairseq does?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from fairseq.data import Dictionary
from torch import Tensor, nn
from tqdm import tqdm

from neuroprune_fairseq.export.parity import BATCH_SIZE, Agreement

PROMPT, LONGEST = 5, 20  # tokens that a continuation starts from, and those that it adds


def fairseq_log_probs(model: nn.Module, text: Tensor) -> list[float]:
    """The log-probability of every token of a text but its first.

    Args:
        model: a language model in evaluation mode.
        text: tokens, (length,).
    """
    log_probs = model.get_normalized_probs(model(text[None, :-1]), log_probs=True)[0]
    return log_probs.gather(1, text[1:, None])[:, 0].tolist()


def fairseq_continuation(
    model: nn.Module, prompt: Tensor, dictionary: Dictionary, longest: int
) -> list[int]:
    """The most likely next token, again and again, until </s>; never padding.

    Args:
        model: a language model in evaluation mode.
        prompt: tokens to start from, (length,).
        dictionary: of the model.
        longest: number of tokens to add at most.

    Returns:
        What was added, without </s>.
    """
    tokens = prompt
    for _ in range(longest):
        scores = model(tokens[None])[0][0, -1]
        scores[dictionary.pad()] = -torch.inf
        best = scores.argmax()
        if best == dictionary.eos():
            break
        tokens = torch.cat([tokens, best[None]])
    return tokens[len(prompt) :].tolist()


class TextEngine:
    """An exported language model."""

    def __init__(self, folder: Path, dictionary: Dictionary) -> None:
        """Load it.

        Args:
            folder: exported model.
            dictionary: of the model.
        """
        self._engine = ctranslate2.Generator(str(folder), device="cpu", intra_threads=1)
        self._dictionary = dictionary

    def log_probs(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """As :func:`fairseq_log_probs`, of each text."""
        words = [[self._dictionary[token] for token in text] for text in texts]
        results = self._engine.score_batch(words, max_batch_size=BATCH_SIZE)
        return [found.log_probs for found in results]

    def continuations(self, prompts: Sequence[Sequence[int]], longest: int) -> list[list[int]]:
        """As :func:`fairseq_continuation`, of each prompt, at most ``longest`` tokens."""
        results = self._engine.generate_batch(
            [[self._dictionary[token] for token in prompt] for prompt in prompts],
            max_length=longest,
            include_prompt_in_result=False,
            suppress_sequences=[["<blank>"]],
            max_batch_size=BATCH_SIZE,
        )
        return [[self._dictionary.index(word) for word in r.sequences[0]] for r in results]


@torch.no_grad()
def check_texts(
    folder: Path, model: nn.Module, task: Any, dataset: Any, numbers: Sequence[int]
) -> Agreement:
    """Score and continue texts with fairseq and with an exported language model.

    Args:
        folder: exported model.
        model: what it was exported from, in evaluation mode.
        task: has the dictionary.
        dataset: of texts, as a language modeling task loads it.
        numbers: which texts.
    """
    items = [dataset[number] for number in numbers]
    # With --add-bos-token the target starts with <s> as the source does: it is not shifted.
    texts = [torch.cat([item["source"], item["target"][-1:]]) for item in items]
    prompts = [item["source"][:PROMPT] for item in items]
    longest = min(LONGEST, model.max_decoder_positions() - PROMPT)
    engine = TextEngine(folder, task.dictionary)
    scores = engine.log_probs([text.tolist() for text in texts])
    continuations = engine.continuations([prompt.tolist() for prompt in prompts], longest)
    same, differences = [], []
    for text, found in zip(tqdm(texts, desc="fairseq", unit="text"), scores):
        expected = fairseq_log_probs(model, text)
        differences += [abs(one - other) for one, other in zip(expected, found, strict=True)]
    for prompt, tokens in zip(prompts, continuations):
        same.append(fairseq_continuation(model, prompt, task.dictionary, longest) == tokens)
    return Agreement(sum(same) / max(1, len(same)), max(differences, default=0.0))
