"""How long an engine translates with a model, the number of tokens forced.

With it forced, time does not depend on what the weights would say: any cut of a model is timed as
if it had been trained.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from neuroprune_fairseq.compact.cost_fit import Timer

ENGINES = ("ctranslate2", "fairseq")


@dataclass(frozen=True)
class Work:
    """What is translated and how; what is timed is all of it, once."""

    settings: Namespace  # of the model
    task: Any  # has the dictionaries
    dataset: Any  # of pairs, as a translation task loads it
    numbers: Sequence[int]  # of its sentences
    length: int  # target tokens of every sentence, without </s>
    beam: int = 5
    batch_size: int = 64
    threads: int = 1
    compute_type: str = "float32"

    def time(self, translate: Callable[[], object]) -> float:
        """Milliseconds per sentence of a call that translates all of it.

        Of one thread the processor time, which is that of the clock where nothing else runs,
        and changes less where something does.
        """
        clock = time.process_time if self.threads == 1 else time.perf_counter
        start = clock()
        translate()
        return 1000 * (clock() - start) / len(self.numbers)


def timer_maker(engine: str, work: Work) -> Callable[[nn.Module], Timer]:
    """What makes a timer of a model: a function of no arguments, in ms per sentence.

    Args:
        engine: one of ENGINES; the package of that name must be there.
        work: to time.
    """
    if engine == "ctranslate2":
        from neuroprune_fairseq.export.timing_ctranslate2 import make_timer
    else:
        from neuroprune_fairseq.export.timing_fairseq import make_timer
    return lambda model: make_timer(model, work)
