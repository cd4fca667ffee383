"""The models that benchmarks/inference.py lets run: dense and compact, in fairseq and exported."""

from __future__ import annotations

import argparse
import random
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary, data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, build_model
from pruned_models import prune_at_random_
from torch import nn

from neuroprune_fairseq.compact.cost import flops_per_token
from neuroprune_fairseq.compact.cutting import compact, make_plan
from neuroprune_fairseq.compact.state import compact_state
from neuroprune_fairseq.export.converter import ModelConverter
from neuroprune_fairseq.files.checkpoint import language_pair, read_checkpoint
from neuroprune_fairseq.files.models import model_of, settings_of, stand_in_dictionaries


@dataclass
class Models:
    """Where the models lie and what they cost."""

    checkpoints: dict[str, Path]  # "dense", "compact"
    exports: dict[tuple[str, str], Path]  # by model and compute type
    sizes: dict[str, dict[str, int]]
    sentences: list[list[int]]  # source token ids, with </s>
    fairseq: dict[str, nn.Module]

    def flop_ratios(self, sentences: list[list[int]], records: list[dict]) -> dict[int, float]:
        """FLOPs of dense over compact, by beam: the speed-up that FLOPs allow.

        A source token is read once, a target token computed for every hypothesis of the beam.
        """
        ratios = {}
        for beam in {record["beam"] for record in records}:
            of_beam = [record for record in records if record["beam"] == beam]
            record = max(of_beam, key=lambda found: found["sentences"])
            source = sum(map(len, sentences[: record["sentences"]]))
            length = (source + record["tokens"]) // (2 * record["sentences"])
            costs = {}
            for name, model in self.fairseq.items():
                per_source, per_target = flops_per_token(model, length)
                costs[name] = source * per_source + beam * record["tokens"] * per_target
            ratios[beam] = costs["dense"] / costs["compact"]
        return ratios


def _random_state(arch: str, vocabulary: int) -> dict[str, Any]:
    """A checkpoint of random weights."""
    settings = Namespace(arch=arch, _name=arch, share_all_embeddings=True)
    ARCH_CONFIG_REGISTRY[arch](settings)
    torch.manual_seed(1)
    dictionary = Dictionary()
    for number in range(vocabulary - len(dictionary)):
        dictionary.add_symbol(f"token{number}")
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = build_model(settings, task)
    return {"args": None, "cfg": {"model": settings}, "model": model.state_dict()}


def _finish(
    folder: Path,
    states: dict[str, dict[str, Any]],
    sentences: list[list[int]],
    quantizations: list[str],
) -> Models:
    """Write the checkpoints and export them."""
    models = Models({}, {}, {}, sentences, {})
    for name, state in states.items():
        path = models.checkpoints[name] = folder / f"{name}.pt"
        torch.save(state, path)
        model = models.fairseq[name] = model_of(state, str(path))
        settings, dictionaries = settings_of(state, str(path)), stand_in_dictionaries(state)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        models.sizes[name] = {"parameters": parameters, "fairseq_bytes": path.stat().st_size}
        for kind in quantizations:
            out = models.exports[name, kind] = folder / f"{name}-{kind}"
            ModelConverter(model, settings, *dictionaries).convert(str(out), quantization=kind)
            models.sizes[name][f"{kind}_bytes"] = (out / "model.bin").stat().st_size
    return models


def _compact(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    plan = make_plan(model)
    return compact_state(state, model, compact(model, plan), plan, keep_optimizer=False)


def random_models(arguments: argparse.Namespace, folder: Path) -> Models:
    """Dense and compact models with random weights, and random sentences."""
    state = _random_state(arguments.arch, arguments.vocabulary)
    model = model_of(state, arguments.arch)
    prune_at_random_(model, arguments.heads, arguments.neurons)
    states = {"dense": state, "compact": _compact(state, model)}
    draw, eos = random.Random(1), Dictionary().eos()
    sentences = [
        [draw.randrange(4, arguments.vocabulary) for _ in range(draw.randrange(10, 40))] + [eos]
        for _ in range(arguments.sentences)
    ]
    return _finish(folder, states, sentences, arguments.quantizations)


def checkpoint_models(arguments: argparse.Namespace, folder: Path) -> Models:
    """Trained models, and sentences of their corpus."""
    states = {name: read_checkpoint(getattr(arguments, name)) for name in ("dense", "pruned")}
    for state in states.values():
        state["last_optimizer_state"] = None
    pruned = states.pop("pruned")
    states["compact"] = _compact(pruned, model_of(pruned, arguments.pruned))
    source, target = language_pair(arguments.data, arguments.subset)
    path = Path(arguments.data) / f"{arguments.subset}.{source}-{target}.{source}"
    dataset = data_utils.load_indexed_dataset(str(path), None)
    number = min(arguments.sentences, len(dataset))
    sentences = [dataset[i].tolist() for i in range(number)]
    return _finish(folder, states, sentences, arguments.quantizations)
