"""Timing a model in fairseq's own beam search, as fairseq-generate runs it."""

from __future__ import annotations

from functools import partial

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import nn

from neuroprune_fairseq.compact.cost_fit import Timer
from neuroprune_fairseq.export.timing import Work


def make_timer(model: nn.Module, work: Work) -> Timer:
    """Prepare a model, and batches of sentences of similar length.

    Args:
        model: in evaluation mode; it is made fast for generation and can't be trained any more.
        work: to time. Its threads are set for all of PyTorch.

    Returns:
        A function that translates all of it and returns ms per sentence.
    """
    torch.set_num_threads(work.threads)
    model.make_generation_fast_(beamable_mm_beam_size=work.beam, need_attn=False)
    generator = SequenceGenerator(
        *([model], work.task.target_dictionary, work.beam),
        **{"max_len_a": 0, "max_len_b": work.length, "min_len": work.length},
    )
    size, dataset = work.batch_size, work.dataset
    by_length = sorted(work.numbers, key=lambda number: len(dataset[number]["source"]))
    chunks = (by_length[start : start + size] for start in range(0, len(by_length), size))
    batches = [dataset.collater([dataset[number] for number in chunk]) for chunk in chunks]
    return partial(work.time, lambda: [generator.generate([model], batch) for batch in batches])
