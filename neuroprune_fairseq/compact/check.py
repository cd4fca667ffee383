"""Does a compact model still compute what the model did that it was cut from?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.nat import FairseqNATModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from neuroprune_fairseq.files.errors import refuse

BATCHES, SENTENCES, LONGEST, BEAM = 3, 8, 20, 4


def _dictionary(model: nn.Module, side: str) -> Dictionary | None:
    return getattr(getattr(model, side, None), "dictionary", None)


def _tokens(dictionary: Dictionary, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randint(dictionary.nspecial, len(dictionary), shape, generator=generator)


def random_batch(model: nn.Module, seed: int) -> dict[str, Any]:
    """Sentences of random tokens, of different lengths, padded as fairseq pads them.

    Args:
        model: a fairseq model; it knows its dictionaries and how long a sentence may be.
        seed: of the tokens.

    Returns:
        The ``net_input`` of a sample as the model takes it.
    """
    generator = torch.Generator().manual_seed(seed)
    limits = model.max_positions()
    longest = min(LONGEST, *limits) if isinstance(limits, tuple) else min(LONGEST, limits)
    lengths = torch.randint(1, longest + 1, (SENTENCES,), generator=generator)
    lengths, longest = lengths.sort(descending=True).values, int(lengths.max())
    position, shape = torch.arange(longest), (SENTENCES, longest)
    source, target = (_dictionary(model, side) for side in ("encoder", "decoder"))
    first: Any = source or target
    tokens = _tokens(first, shape, generator)
    if not (source and target):
        tokens[:, 0] = first.bos()
        return {
            "src_tokens": tokens.masked_fill(position >= lengths[:, None], first.pad()),
            "src_lengths": lengths,
        }
    src_tokens = tokens.masked_fill(position < longest - lengths[:, None], source.pad())
    src_tokens[:, -1] = source.eos()  # padding on the left
    previous = _tokens(target, shape, generator)
    previous = previous.masked_fill(position >= lengths[:, None], target.pad())
    previous[:, 0] = target.eos()
    return {"src_tokens": src_tokens, "src_lengths": lengths, "prev_output_tokens": previous}


def _outputs(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """The logits of every token, and those of classification heads.

    Of a model that is not autoregressive, whose logits are another thing in each of them, what
    its decoder finds.
    """
    if isinstance(model, FairseqNATModel):
        encoder_out = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
        return [model.decoder.extract_features(inputs["prev_output_tokens"], encoder_out)[0]]
    heads = getattr(model, "classification_heads", ())
    found = [model(**inputs)[0]]
    return found + [model(**inputs, classification_head_name=name)[0] for name in heads]


@torch.no_grad()
def logit_difference(first: nn.Module, second: nn.Module, inputs: dict[str, Any]) -> float:
    """Largest difference of the teacher-forced logits, relative to the largest logit.

    Raises:
        SystemExit: one line, when the first model has none to compare with.
    """
    worst = 0.0
    for expected, found in zip(_outputs(first, inputs), _outputs(second, inputs)):
        if not expected.isfinite().all():
            refuse("the model's own logits are not finite: some of its weights are too large")
        if not found.isfinite().all():
            return float("inf")
        largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
        worst = max(worst, ((expected - found).abs().max() / largest).item())
    return worst


def _translate(model: nn.Module, inputs: dict[str, Any]) -> list[list[int]]:
    generator = SequenceGenerator(
        [model], model.decoder.dictionary, beam_size=BEAM, max_len_a=1, max_len_b=5
    )
    found = generator.generate([model], {"net_input": dict(inputs)})
    return [hypothesis["tokens"].tolist() for beams in found for hypothesis in beams]


def _translations_differ(before: nn.Module, after: nn.Module, batches: list[dict]) -> bool:
    before, after = copy.deepcopy(before).double(), copy.deepcopy(after).double()
    return any(_translate(before, inputs) != _translate(after, inputs) for inputs in batches)


def check_equal(
    before: nn.Module, after: nn.Module, limit: float = 1e-5, beam: bool = True
) -> str | None:
    """Compare two models on random batches, teacher-forced and by beam search.

    The logits are compared in fp32. Beam search, where a model is made for it, runs in fp64,
    where rounding cannot turn the order of two almost equally good translations.

    Args:
        before: the model with its zeros, fp32, in evaluation mode.
        after: the compact one.
        limit: largest relative difference of logits that is let pass.
        beam: also compare the translations of beam search.

    Returns:
        What differs, None when nothing does.
    """
    if pairs := getattr(before, "models", None):  # one model for each language pair
        checks = (check_equal(pairs[name], after.models[name], limit, beam) for name in pairs)
        return next(filter(None, checks), None)
    batches = [random_batch(before, seed) for seed in range(BATCHES)]
    worst = max(logit_difference(before, after, inputs) for inputs in batches)
    if not worst <= limit:
        return f"logits differ by {worst:.1e} relative, more than {limit:.0e}"
    searches = isinstance(before, FairseqEncoderDecoderModel)
    searches &= not isinstance(before, FairseqNATModel)
    if beam and searches and _translations_differ(before, after, batches):
        return "beam search finds other translations"
    return None
