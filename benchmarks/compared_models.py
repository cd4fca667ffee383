"""The models of benchmarks/bleu_and_speed.py: exports, what is left of them, their BLEU."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ctranslate2

from neuroprune_experiments.engine import detokenised, load, read_sources, timed
from neuroprune_experiments.evaluation import read_references
from neuroprune_experiments.frontier.methods import method_of
from neuroprune_experiments.scores import bleu_scores
from neuroprune_fairseq.compact.cost_table import layer_shapes
from neuroprune_fairseq.compact.cutting import compact
from neuroprune_fairseq.export.converter import ModelConverter
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.files.models import load_model_and_task, model_of, settings_of
from neuroprune_fairseq.files.results import append_line, read_lines
from neuroprune_fairseq.method.sparsity import measure

Result = dict[str, Any]
translator = functools.cache(load)  # every engine stays loaded


def digest(*contents: bytes) -> str:
    """A name for contents, by which they are known again."""
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in contents)).hexdigest()


class Work:
    """Results of parts of the work, on disk, so that a run that was stopped goes on."""

    def __init__(self, folder: Path) -> None:
        """Read what is done already.

        Args:
            folder: made where missing.
        """
        with refusing(f"--work {folder} cannot be made; name another folder", OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / "done.jsonl"
        lines = []
        if self._path.exists():
            wrong = "lacks 'part' or 'found'"
            lines = read_lines(
                self._path,
                lambda line: "" if {"part", "found"} <= line.keys() else wrong,
                "benchmarks/bleu_and_speed.py",
            )
        self._done = {line["part"]: line["found"] for line in lines}

    def once(self, part: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once for a part.

        Args:
            part: all that the result depends on, as JSON takes it.
            make: called if it was not made before; returns what JSON takes.
        """
        key = json.dumps(part, sort_keys=True)
        if key not in self._done:
            self._done[key] = make()
            append_line(self._path, {"part": key, "found": self._done[key]})
        return self._done[key]


@dataclass(frozen=True)
class Contestant:
    """A model, exported."""

    label: str
    checkpoint: Path | None
    folder: Path  # of the export
    digest: str  # of all its files
    facts: Result  # that its rows begin with


def _export(work: Work, checkpoint: Path, data: str) -> Path:
    """The export of a checkpoint, made once."""
    folder = work.folder / f"engine-{digest(checkpoint.read_bytes())[:16]}"
    if not folder.exists():
        model, task = load_model_and_task(checkpoint, data)
        settings = settings_of(read_checkpoint(checkpoint), checkpoint)
        dictionaries = (task.source_dictionary, task.target_dictionary)
        with refusing(f"{checkpoint} cannot be exported"), replacing(folder) as temporary:
            converter = ModelConverter(model.float().eval(), settings, *dictionaries)
            converter.convert(str(temporary))
    return folder


def _what_is_left(checkpoint: Path) -> Result:
    """Method, parameters, heads, neurons and layers of a checkpoint."""
    state = read_checkpoint(checkpoint)
    model = model_of(state, checkpoint)
    small = compact(model)
    sizes = {
        name: sum(parameter.numel() for parameter in each.parameters())
        for name, each in (("parameters", model), ("compact_parameters", small))
    }
    layers = [asdict(shape) for shape in layer_shapes(small)]
    method = method_of(settings_of(state, checkpoint))
    return {"method": method, **measure(model), **sizes, "layers": layers}


def contestant(work: Work, entry: Mapping[str, Any], data: str) -> Contestant:
    """Make a model ready.

    Args:
        work: keeps exports.
        entry: a comparison.Model.
        data: prepared corpus, for the dictionaries.
    """
    checkpoint = Path(entry["checkpoint"]) if "checkpoint" in entry else None
    facts: Result = {"method": entry["name"]}
    if checkpoint:
        of_file = {"facts": digest(checkpoint.read_bytes())}
        facts = work.once(of_file, lambda: _what_is_left(checkpoint))
        facts = {**facts, "checkpoint": str(checkpoint)}
    folder = Path(entry["engine"]) if "engine" in entry else _export(work, checkpoint, data)
    files = [
        *sorted(p for p in folder.iterdir() if p.is_file()),
        *([checkpoint] * bool(checkpoint)),
    ]
    own = {key: entry[key] for key in ("method", "settings", "seed") if key in entry}
    facts = {"label": entry["name"], **facts, **own, "engine_folder": str(folder)}
    of_files = digest(*(path.read_bytes() for path in files))
    return Contestant(entry["name"], checkpoint, folder, of_files, facts)


@dataclass(frozen=True)
class Text:
    """One part of a corpus."""

    subset: str
    sources: Sequence[Sequence[str]]
    references: Sequence[str]

    @classmethod
    def read(cls, data: str, subset: str) -> Text:
        """Read sources and references, and refuse a part that lacks some of them."""
        sources, references = read_sources(data, subset), read_references(data, subset)
        if len(sources) != len(references):
            sizes = f"{len(sources)} sentences but {len(references)} references"
            refuse(f"--subset {subset}: --data {data} has {sizes}")
        return cls(subset, sources, references)

    def digest(self) -> str:
        """A name for its contents."""
        return digest(json.dumps([self.sources, self.references]).encode())


def bleu_of(
    work: Work, one: Contestant, text: Text, beam: int, kind: str, batch_size: int, threads: int
) -> float:
    """BLEU of the detokenised translations of a text, scored once for each model and setting."""

    def score() -> Result:
        engine = translator(one.folder, threads, kind)
        pieces, _ = timed(engine, text.sources, beam, batch_size)
        return bleu_scores(detokenised(pieces), text.references)

    version = ctranslate2.__version__
    what = {"bleu": one.digest, "text": text.digest(), "beam": beam, "compute_type": kind}
    return work.once({**what, "ctranslate2": version}, score)["bleu"]
