"""How fast an exported model is on this machine, and what is best: type, beam, shortlist."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import ctranslate2
from fairseq.data import Dictionary
from tqdm import tqdm

from neuroprune_fairseq.export.parity import BEAM, LONGEST
from neuroprune_fairseq.export.scoring import bleu
from neuroprune_fairseq.export.shortlist import FILE as SHORTLIST

BATCH = 64
SECONDS, ROUNDS = 40.0, 5  # rounds go on until one of them is reached; the first is always whole
PILOT, ONE_BY_ONE = 32, 32  # sentences: to guess how long a round takes; with batches of one
TOLERATED = 0.3  # BLEU that speed may cost in what is recommended


@dataclass
class Measured:
    """One way to run a model, with the tokens per second of every round."""

    engine: Any
    compute_type: str
    shortlist: bool
    beam: int
    bleu: float = 0.0
    batched: list[float] = field(default_factory=list)  # batches of BATCH sentences
    single: list[float] = field(default_factory=list)

    def translate(self, sources: Sequence[list[str]], batch: int) -> tuple[list[Any], float]:
        """The best translations, and tokens (</s> included) per second."""
        start = time.perf_counter()
        found = self.engine.translate_batch(
            sources,
            beam_size=self.beam,
            max_batch_size=batch,
            max_decoding_length=LONGEST,
            use_vmap=self.shortlist,
        )
        seconds = time.perf_counter() - start
        best = [each.hypotheses[0] for each in found]
        return best, sum(len(tokens) + 1 for tokens in best) / seconds

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        speeds = (f"{median(self.batched):,.0f}", f"{median(self.single):,.0f}")
        shortlist = "yes" if self.shortlist else "no"
        return self.compute_type, shortlist, str(self.beam), f"{self.bleu:.2f}", *speeds


def ways(folder: Path, threads: int, shortlist: bool) -> list[Measured]:
    """Every compute type that the CPU has, beam search and greedy, without and with shortlist.

    Args:
        folder: exported model, fp32; the engine itself stores its weights in other types.
        threads: workers of one thread.
        shortlist: whether it has one.
    """
    engines = {}
    for kind in sorted(ctranslate2.get_supported_compute_types("cpu")):
        engine = ctranslate2.Translator(
            str(folder), compute_type=kind, inter_threads=threads, intra_threads=1
        )
        engines[engine.compute_type] = engine  # some are other names of one another
    lists = (False, True) if shortlist else (False,)
    return [
        Measured(engine, kind, listed, beam)
        for kind, engine in engines.items()
        for listed in lists
        for beam in (BEAM, 1)
    ]


def benchmark(
    found: list[Measured],
    sources: Sequence[list[str]],
    expected: Sequence[str],
    target: Dictionary,
) -> int:
    """Measure them in turn, round after round, so that other work on the machine slows all.

    Args:
        found: what to measure; gets its numbers.
        sources: sentences, tokens of each.
        expected: their references as text.
        target: target dictionary.

    Returns:
        How many sentences there was time for.
    """
    start = time.perf_counter()
    found[0].translate(sources[:PILOT], BATCH)
    guess = (time.perf_counter() - start) * len(found) / min(PILOT, len(sources))
    used = max(PILOT, min(len(sources), int(SECONDS / guess)))
    sources, expected = sources[:used], expected[:used]
    start = time.perf_counter()
    with tqdm(desc="benchmark", unit="run") as progress:
        for rounds in range(1, ROUNDS + 1):
            for way in found:
                best, speed = way.translate(sources, BATCH)
                way.batched.append(speed)
                way.single.append(way.translate(sources[:ONE_BY_ONE], 1)[1])
                way.bleu = bleu(best, expected, target)
                progress.update()
            if (time.perf_counter() - start) * (rounds + 1) / rounds > SECONDS:
                break
    return len(sources)


def table(found: Sequence[Measured]) -> str:
    """What was measured, a line each."""
    head = ("compute type", "shortlist", "beam", "BLEU", f"tokens/s, batch {BATCH}", "batch 1")
    rows = [head, *(way.cells() for way in found)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows
    )


def recommendation(found: Sequence[Measured]) -> str:
    """The fastest way that costs less than :data:`TOLERATED` BLEU, and whether greedy pays."""
    beams = [way for way in found if way.beam > 1]
    enough = max(way.bleu for way in beams) - TOLERATED
    best = max((way for way in beams if way.bleu >= enough), key=lambda way: median(way.batched))
    same = (best.compute_type, best.shortlist)
    [greedy] = [w for w in found if w.beam == 1 and (w.compute_type, w.shortlist) == same]
    lost, times = best.bleu - greedy.bleu, median(greedy.batched) / median(best.batched)
    pays = "pays" if lost <= TOLERATED else "costs more than it is worth"
    shortlist = " with the shortlist" if best.shortlist else ""
    return (
        f"recommended: {best.compute_type}{shortlist}; greedy search is {times:.1f} times as fast "
        f"as beam {BEAM} for {lost:.2f} BLEU less: it {pays}"
    )


def report(
    folder: Path,
    sources: Sequence[list[str]],
    expected: Sequence[str],
    target: Dictionary,
    threads: int,
) -> str:
    """Measure an exported model: a table, and what it recommends.

    Args:
        folder: exported model, fp32.
        sources: sentences, tokens of each.
        expected: their references as text.
        target: target dictionary.
        threads: workers of one thread.
    """
    found = ways(folder, threads, (folder / SHORTLIST).is_file())
    used = benchmark(found, sources, expected, target)
    heading = f"{used} sentences, {threads} thread{'s' * (threads > 1)}:"
    return "\n".join([heading, table(found), recommendation(found)])
