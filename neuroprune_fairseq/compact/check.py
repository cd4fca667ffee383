"""Does a compact model still compute what the model did that it was cut from?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

BATCHES, SENTENCES, LONGEST, BEAM = 3, 8, 20, 4


def random_batch(source: Dictionary, target: Dictionary, seed: int) -> dict[str, Any]:
    """Sentences of random tokens, of different lengths, padded as fairseq pads them.

    Returns:
        A sample as fairseq's models and generators take it.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, LONGEST + 1, (SENTENCES,), generator=generator)
    lengths, longest = lengths.sort(descending=True).values, int(lengths.max())

    def tokens(dictionary: Dictionary) -> Tensor:
        shape = (SENTENCES, longest)
        drawn = torch.randint(dictionary.nspecial, len(dictionary), shape, generator=generator)
        return drawn

    position = torch.arange(longest)
    src_tokens = tokens(source).masked_fill(position < longest - lengths[:, None], source.pad())
    src_tokens[:, -1] = source.eos()  # padding on the left
    previous = tokens(target).masked_fill(position >= lengths[:, None], target.pad())
    previous[:, 0] = target.eos()
    inputs = {"src_tokens": src_tokens, "src_lengths": lengths, "prev_output_tokens": previous}
    return {"net_input": inputs}


@torch.no_grad()
def logit_difference(first: nn.Module, second: nn.Module, sample: dict[str, Any]) -> float:
    """Largest difference of the teacher-forced logits, relative to the largest logit."""
    expected = first(**sample["net_input"])[0]
    found = second(**sample["net_input"])[0]
    if not (expected.isfinite().all() and found.isfinite().all()):
        return float("inf")
    return ((expected - found).abs().max() / expected.abs().max()).item()


def _translate(model: nn.Module, target: Dictionary, sample: dict[str, Any]) -> list[list[int]]:
    generator = SequenceGenerator(
        [model], target, beam_size=BEAM, max_len_a=1, max_len_b=5, normalize_scores=True
    )
    found = generator.generate([model], {"net_input": dict(sample["net_input"])})
    return [hypothesis["tokens"].tolist() for beams in found for hypothesis in beams]


def check_equal(
    before: nn.Module,
    after: nn.Module,
    source: Dictionary,
    target: Dictionary,
    limit: float = 1e-5,
    beam: bool = True,
) -> str | None:
    """Compare two models on random batches, teacher-forced and by beam search.

    The logits are compared in fp32. Beam search runs in fp64, where rounding cannot turn
    the order of two almost equally good translations.

    Args:
        before: the model with its zeros, fp32, in evaluation mode.
        after: the compact one.
        source: source dictionary.
        target: target dictionary.
        limit: largest relative difference of logits that is let pass.
        beam: also compare the translations of beam search.

    Returns:
        What differs, None when nothing does.
    """
    batches = [random_batch(source, target, seed) for seed in range(BATCHES)]
    worst = max(logit_difference(before, after, sample) for sample in batches)
    if not worst <= limit:
        return f"logits differ by {worst:.1e} relative, more than {limit:.0e}"
    if not beam:
        return None
    before, after = copy.deepcopy(before).double(), copy.deepcopy(after).double()
    for sample in batches:
        if _translate(before, target, sample) != _translate(after, target, sample):
            return "beam search finds other translations"
    return None
