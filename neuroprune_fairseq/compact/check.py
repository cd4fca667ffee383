"""Does a compact model still compute what the model did that it was cut from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def _translate(model: nn.Module, inputs: dict[str, Any]) -> list[list[int]]:
    generator = SequenceGenerator(
        [model], model.decoder.dictionary, beam_size=BEAM, max_len_a=1, max_len_b=5
    )
    found = generator.generate([model], {"net_input": dict(inputs)})
    return [hypothesis["tokens"].tolist() for beams in found for hypothesis in beams]


@dataclass(frozen=True)
class Behaviour:
    """What a model does with some random batches, so that the model itself can go."""

    outputs: list[Tensor]  # logits of every token and of classification heads, fp32
    translations: list[list[int]]  # of beam search; none of a model that is not made for it


def _searches(model: nn.Module) -> bool:
    is_translator = isinstance(model, FairseqEncoderDecoderModel)
    return is_translator and not isinstance(model, FairseqNATModel)


@torch.no_grad()
def behaviour(model: nn.Module, beam: bool = True) -> list[Behaviour]:
    """Try a model on random batches, teacher-forced and by beam search.

    Logits are computed in fp32. Beam search, where a model is made for it, runs in fp64, where
    rounding cannot turn the order of two almost equally good translations: the model is that while
    it lasts, and no copy of it.

    Args:
        model: fp32, in evaluation mode.
        beam: also search.

    Returns:
        What it did; of a multilingual model one for each language pair.
    """
    if pairs := getattr(model, "models", None):
        return [one for name in pairs for one in behaviour(pairs[name], beam)]
    batches = [random_batch(model, seed) for seed in range(BATCHES)]
    outputs = [logits for inputs in batches for logits in _outputs(model, inputs)]
    translations: list[list[int]] = []
    if beam and _searches(model) and all(logits.isfinite().all() for logits in outputs):
        model.double()
        translations = [found for inputs in batches for found in _translate(model, inputs)]
        model.float()
    return [Behaviour(outputs, translations)]


def _logit_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest difference of the logits, relative to a batch's largest logit."""
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        if not one.isfinite().all():
            refuse("the model's own logits are not finite: some of its weights are too large")
        if not other.isfinite().all():
            return float("inf")
        largest = one.abs().max().clamp(min=torch.finfo(one.dtype).tiny)
        worst = max(worst, ((one - other).abs().max() / largest).item())
    return worst


def difference(
    expected: Sequence[Behaviour], found: Sequence[Behaviour], limit: float = 1e-5
) -> str | None:
    """Compare what two models did.

    Args:
        expected: of the model with its zeros.
        found: of the compact one.
        limit: largest relative difference of logits that is let pass.

    Returns:
        What differs, None when nothing does; translations count where both models searched.

    Raises:
        SystemExit: one line, when the first model's logits are not finite.
    """
    for one, other in zip(expected, found, strict=True):
        worst = _logit_difference(one.outputs, other.outputs)
        if not worst <= limit:
            return f"logits differ by {worst:.1e} relative, more than {limit:.0e}"
        searched = one.translations and other.translations
        if searched and one.translations != other.translations:
            return "beam search finds other translations"
    return None
