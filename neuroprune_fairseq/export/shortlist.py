"""A shortlist for CTranslate2: the target tokens that a source sentence can need, from its tokens.

The engine then computes its output layer over those alone (``vmap.txt``, ``use_vmap=True``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Pair = tuple[Tokens, Tokens]  # source, target, without </s>

FILE, FACTS = "vmap.txt", "shortlist.json"
NOTHING = 0  # what a target token may come from beside source tokens; <s>, which no source holds
ITERATIONS = 5
RAREST = 1e-3  # candidates less likely than this would make lists longer and hardly better
CHUNK = 1_000_000  # cells, each a source token beside a target token, that are counted at a time
CELLS = 50_000_000  # in all; they take 0.5 GB


def read_pair(dataset: Any, number: int) -> Pair:
    """A sentence pair of a translation task's dataset, without </s>."""
    item = dataset[number]
    return item["source"].numpy()[:-1], item["target"].numpy()[:-1]


def sample_pairs(dataset: Any, wanted: int) -> list[Pair]:
    """Sentence pairs from all over a dataset, always the same, and no more than fit :data:`CELLS`.

    Args:
        dataset: of pairs, as a translation task loads it.
        wanted: number of pairs at most.
    """
    pairs: list[Pair] = []
    cells = 0
    for number in np.random.default_rng(0).permutation(len(dataset))[:wanted].tolist():
        source, target = read_pair(dataset, number)
        cells += (len(source) + 1) * len(target)
        if cells > CELLS:
            break
        pairs.append((source, target))
    return pairs


def translation_probabilities(
    pairs: Iterable[Pair], iterations: int = ITERATIONS
) -> tuple[Tokens, Tokens, NDArray[np.float64]]:
    """IBM model 1 (Brown et al. 1993): expectation maximisation from equal probabilities.

    Of every target token, each source token of its sentence, and :data:`NOTHING`, accounts for a
    share in proportion to t(target | source); t is the sum of its shares, normalised by source.

    Args:
        pairs: of sentences.
        iterations: of the algorithm.

    Returns:
        source, target, t(target | source), each (number of pairs of tokens that occur together,),
        sorted by source and target.
    """
    chunks = []
    keys = np.empty(0, np.int64)
    for cells, widths in _chunks(pairs):
        found, inverse = np.unique(cells, return_inverse=True)
        keys = np.union1d(keys, found)
        chunks.append((found, inverse.astype(np.int32), widths))
    source, target = keys >> 32, keys & 0xFFFFFFFF
    t = np.ones(len(keys))
    for _ in range(iterations):
        counts = np.zeros(len(keys))
        for found, places, widths in chunks:
            cells = np.searchsorted(keys, found)[places]
            shares = t[cells]
            sums = np.add.reduceat(shares, np.cumsum(widths) - widths)
            shares /= np.repeat(sums, widths)
            counts += np.bincount(cells, shares, minlength=len(keys))
        t = counts / np.bincount(source, counts)[source]
    return source, target, t


def _chunks(pairs: Iterable[Pair]) -> Iterable[tuple[Tokens, Tokens]]:
    """Cells source << 32 | target, target by target, and how many each target token has."""
    cells: list[Tokens] = []
    widths: list[Tokens] = []
    size = 0
    for source, target in pairs:
        if not len(target):
            continue
        above = np.append(source, NOTHING).astype(np.int64) << 32
        cells.append(np.add.outer(target.astype(np.int64), above).ravel())
        widths.append(np.full(len(target), len(above)))
        size += cells[-1].size
        if size > CHUNK:
            yield np.concatenate(cells), np.concatenate(widths)
            cells, widths, size = [], [], 0
    if cells:
        yield np.concatenate(cells), np.concatenate(widths)


@dataclass(frozen=True)
class Shortlist:
    """Which target tokens a source sentence can need, as numbers of the dictionaries.

    Of the sentence "w1 w2" these are ``always``, ``candidates[w1]`` and ``candidates[w2]``.
    """

    always: list[int]
    candidates: dict[int, list[int]]  # by source token, the most likely one first
    facts: dict[str, Any]  # how it was made

    def of(self, source: Iterable[int]) -> set[int]:
        """The target tokens of a sentence."""
        return set(self.always).union(*(self.candidates.get(token, ()) for token in source))

    def coverage(self, pairs: Iterable[Pair]) -> float:
        """The share of target tokens that are in the lists of their sentences, in [0, 1]."""
        found = total = 0
        for source, target in pairs:
            tokens = self.of(source.tolist())
            found += sum(token in tokens for token in target.tolist())
            total += len(target)
        return found / max(1, total)

    def write(self, folder: Path, source: Dictionary, target: Dictionary) -> None:
        """Put vmap.txt and how it was made beside an exported model.

        A line is a source n-gram (here: a token), a tab, target tokens; the tokens of the line
        without a source are always kept.
        """
        lines = [("", self.always), *((source[s], found) for s, found in self.candidates.items())]
        text = "".join(f"{name}\t{' '.join(target[i] for i in found)}\n" for name, found in lines)
        (folder / FILE).write_text(text, encoding="utf-8")
        (folder / FACTS).write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8")


def build_shortlist(
    pairs: Sequence[Pair], source: Dictionary, target: Dictionary, size: int, frequent: int
) -> Shortlist:
    """The most likely translations of every source token, and the most frequent target tokens.

    Args:
        pairs: of the training set.
        source: source dictionary.
        target: target dictionary.
        size: candidates of a source token at most, beside itself where it is a target token.
        frequent: number of target tokens that are kept whatever the source.
    """
    counts = np.bincount(np.concatenate([pair[1] for pair in pairs]), minlength=len(target))
    always = np.argsort(-counts, kind="stable")[:frequent].tolist()
    candidates: dict[int, list[int]] = {
        token: [target.index(source[token])]  # names, numbers, punctuation
        for token in range(source.nspecial, len(source))
        if source[token] in target
    }
    sources, targets, t = translation_probabilities(pairs)
    order = np.lexsort((-t, sources))
    rank = np.arange(len(order)) - np.searchsorted(sources, sources)
    for place in order[(rank < size) & (t[order] >= RAREST)].tolist():
        candidates.setdefault(int(sources[place]), []).append(int(targets[place]))
    del candidates[NOTHING]
    facts = {"method": "IBM model 1", "iterations": ITERATIONS, "pairs": len(pairs)}
    facts |= {"size": size, "frequent": frequent, "least_probability": RAREST}
    unique = {token: list(dict.fromkeys(found)) for token, found in candidates.items()}
    return Shortlist(always, unique, facts)
