"""Timing a model in CTranslate2, as it is exported."""

from __future__ import annotations

import tempfile
from functools import partial

import ctranslate2
from torch import nn

from neuroprune_fairseq.compact.cost_fit import Timer
from neuroprune_fairseq.export.converter import ModelConverter
from neuroprune_fairseq.export.timing import Work


def make_timer(model: nn.Module, work: Work) -> Timer:
    """Export a model and load it, with a worker of one thread per thread.

    Args:
        model: in evaluation mode.
        work: to time.

    Returns:
        A function that translates all of it and returns ms per sentence.
    """
    source, target = work.task.source_dictionary, work.task.target_dictionary
    converter = ModelConverter(model, work.settings, source, target)
    with tempfile.TemporaryDirectory(prefix="neuroprune-profile-") as folder:
        converter.convert(folder, quantization=work.compute_type, force=True)
        engine = ctranslate2.Translator(folder, inter_threads=work.threads, intra_threads=1)
    found = (work.dataset[number]["source"].tolist()[:-1] for number in work.numbers)  # no </s>
    sentences = [[source[token] for token in tokens] for tokens in found]

    translate = partial(
        engine.translate_batch,
        sentences,
        beam_size=work.beam,
        max_batch_size=work.batch_size,
        max_input_length=0,
        min_decoding_length=work.length,
        max_decoding_length=work.length,
    )
    return partial(work.time, translate)
