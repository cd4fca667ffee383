r"""BLEU and speed of many models, on the same sentences, in one file.

All models are translated by CTranslate2: exports as they are given, checkpoints exported here.
Each is scored on every subset; then they take turns, in every round each once and in an order that
shifts, so that what else the machine does hits all alike. Speeds are compared round by round with
those of one of them. A run that was stopped goes on with the same command. Examples::

    python benchmarks/bleu_and_speed.py --data data-bin/multi30k --baseline dense \
        --models dense=runs/dense/checkpoint_best.pt small=engine --output results/speeds.json
    python benchmarks/bleu_and_speed.py --data data-bin/multi30k --baseline dense \
        --models models.json --output results/speeds.json

models.json is a list of objects with name, checkpoint, engine (its export, if there is one), and
for the picture method, settings and seed.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import ctranslate2
from tqdm import tqdm

from neuroprune_experiments.comparison import comparison_rows, ratios, read_models
from neuroprune_experiments.flags import list_of, number
from neuroprune_experiments.records import markdown
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import OneLineParser

if TYPE_CHECKING:
    from compared_models import Contestant, Text, Work

FAIRSEQ = "fairseq"
COUNT = number(int, 1, 10**9, "a whole number above 0")
Rounds = dict[tuple[str, str], list[dict[str, Any]]]
Translate = Callable[[], dict[str, Any]]  # returns generation_seconds and generated_tokens


def _compute_type(text: str) -> str:
    known = sorted(ctranslate2.get_supported_compute_types("cpu"))
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(known)}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="bleu_and_speed.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="prepared corpus")
    subsets = "parts to score, the last is also what is timed (default: valid,test)"
    add("--subset", type=list_of(str, "names"), default=["valid", "test"], help=subsets)
    models = "checkpoints and exported models, or one JSON file"
    add("--models", nargs="+", required=True, metavar="NAME=PATH", help=models)
    add("--baseline", required=True, metavar="NAME", help="the model to compare with")
    add("--beams", type=list_of(COUNT), default=[5, 1], metavar="N,N", help="default: 5,1")
    add("--batches", type=list_of(COUNT), default=[64, 1], metavar="N,N", help="default: 64,1")
    kinds = {"type": list_of(_compute_type, "compute types"), "default": ["int8", "float32"]}
    add("--compute-types", **kinds, metavar="T,T", help="default: int8,float32")
    add("--fairseq", action="store_true", help="time fairseq's own generation, too")
    add("--threads", type=COUNT, default=1, metavar="N", help="default: 1")
    add("--rounds", type=COUNT, default=5, metavar="N", help="default: 5")
    add("--sentences", type=COUNT, default=512, metavar="N", help="timed in batches (512)")
    add("--single-sentences", type=COUNT, default=64, metavar="N", help="timed one by one (64)")
    work = "exports and what is measured already (default: runs/bleu-and-speed)"
    add("--work", type=Path, default=Path("runs/bleu-and-speed"), metavar="DIR", help=work)
    add("--output", required=True, type=Path, metavar="FILE", help="JSON file to write")
    add("--overwrite", action="store_true", help="replace the output")
    return parser


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Refuse what cannot be meant, before anything runs; returns the entries of models."""
    out = args.output
    if out.exists() and not args.overwrite:
        parser.error(f"--output {out} exists; --overwrite replaces it")
    if not out.parent.is_dir():
        parser.error(f"--output {out}: {out.parent} is no folder")
    models = read_models(args.models)
    if args.baseline not in [model["name"] for model in models]:
        parser.error(f"--baseline {args.baseline} is none of the models")
    without = [model["name"] for model in models if "checkpoint" not in model]
    if args.fairseq and without:
        parser.error(f"--fairseq needs checkpoints: '{without[0]}' is an exported model alone")
    return models


def take_turns(runs: dict[Any, Translate], rounds: int, what: str) -> dict[Any, list[Any]]:
    """What every run returns, round by round.

    Args:
        runs: by name; in every round each once, beginning one share further on.
        rounds: number of rounds.
        what: for the progress bar.
    """
    names, found = list(runs), {name: [] for name in runs}
    with tqdm(total=rounds * len(names), desc=what, disable=None) as progress:
        for turn in range(rounds):
            shift = turn * len(names) // rounds
            for name in names[shift:] + names[:shift]:
                found[name].append(runs[name]())
                progress.update()
    return found


def _clock(threads: int) -> Callable[[], float]:
    """Of one thread the processor's time counts: other work on the machine disturbs it less."""
    return time.process_time if threads == 1 else time.perf_counter


def _in_fairseq(one: Contestant, text: Text, args: Any, beam: int, batch_size: int) -> Translate:
    """fairseq's own beam search on the same sentences."""
    from contender import fairseq_translator
    from fairseq.data import Dictionary

    from neuroprune_fairseq.files.checkpoint import language_pair

    language = language_pair(args.data, text.subset)[0]
    dictionary = Dictionary.load(f"{args.data}/dict.{language}.txt")
    run, _ = fairseq_translator(str(one.checkpoint), args.threads, "cpu")
    ids = [[*map(dictionary.index, source), dictionary.eos()] for source in text.sources]
    clock = _clock(args.threads)
    job = {"sentences": ids, "beam": beam, "batch_size": batch_size, "longest": 200, "shortest": 1}

    def translate() -> dict[str, Any]:
        start = clock()
        tokens = run(job)
        return {"generation_seconds": clock() - start, "generated_tokens": tokens}

    return translate


def _in_engine(
    one: Contestant, text: Text, args: Any, beam: int, batch_size: int, kind: str
) -> Translate:
    from compared_models import translator

    from neuroprune_experiments.engine import timed

    engine = translator(one.folder, args.threads, kind)
    timed(engine, text.sources[:4], beam, batch_size)  # the first translation allocates
    clock = _clock(args.threads)
    return lambda: timed(engine, text.sources, beam, batch_size, clock=clock)[1]


def speeds(
    work: Work, models: Sequence[Contestant], text: Text, args: Any, beam: int, batch_size: int
) -> Rounds:
    """What each model did in each round, by its label and its compute type, or fairseq."""
    from neuroprune_experiments.provenance import hardware

    kinds = [*args.compute_types, *([FAIRSEQ] if args.fairseq else [])]
    names = [(one.label, kind) for kind in kinds for one in models]
    of_label = {one.label: one for one in models}

    def measured() -> list[list[dict[str, Any]]]:
        runs = {}
        for label, kind in names:
            make = _in_fairseq if kind == FAIRSEQ else partial(_in_engine, kind=kind)
            runs[label, kind] = make(of_label[label], text, args, beam, batch_size)
        return list(take_turns(runs, args.rounds, f"beam {beam}, batch {batch_size}").values())

    machine = {**hardware(), "threads": args.threads}
    setting = {"beam": beam, "batch_size": batch_size, "rounds": args.rounds, "kinds": kinds}
    of = {"speeds": [one.digest for one in models], "text": text.digest(), "hardware": machine}
    return dict(zip(names, work.once({**of, **setting}, measured), strict=True))


def rows_of(
    rounds: Rounds, models: Sequence[Contestant], baseline: str, setting: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each model and compute type, without its BLEU.

    Args:
        rounds: as :func:`speeds` returns it.
        models: in the order of the rows.
        baseline: label of the model that speeds are compared with.
        setting: what all of them have in common.
    """
    seconds = {n: [r["generation_seconds"] for r in found] for n, found in rounds.items()}
    facts, rows = {one.label: one.facts for one in models}, []
    for label, kind in sorted(rounds, key=lambda name: [*facts].index(name[0])):
        own, tokens = seconds[label, kind], rounds[label, kind][0]["generated_tokens"]
        in_fairseq = {"engine": FAIRSEQ, "compute_type": "float32"}
        row = {
            **facts[label],
            **(in_fairseq if kind == FAIRSEQ else {"engine": "CTranslate2", "compute_type": kind}),
            **{**setting, "generation_seconds": own, "generated_tokens": tokens},
            "tokens_per_second": tokens / median(own),
            **ratios(seconds[baseline, kind], own),
        }
        if slow := seconds.get((baseline, FAIRSEQ)):
            row["speedup_over_fairseq"] = ratios(slow, own)["speedup"]
        rows.append(row)
    return rows


def compare(
    work: Work, models: Sequence[Contestant], texts: Sequence[Text], args: Any
) -> list[dict[str, Any]]:
    """Score all models, then let them take turns; a row for each model and setting."""
    from compared_models import Text, bleu_of

    wanted = [(m, b, k) for m in models for b in args.beams for k in args.compute_types]
    bleu: dict[tuple, dict[str, float]] = {}
    for one, beam, kind in tqdm(wanted, desc="BLEU", disable=None):
        scores = [bleu_of(work, one, t, beam, kind, max(args.batches), args.threads) for t in texts]
        named = {f"{text.subset}_bleu": score for text, score in zip(texts[:-1], scores)}
        bleu[one.label, beam, kind] = {**named, "bleu": scores[-1], "subset": texts[-1].subset}
    rows, last = [], texts[-1]
    order = random.Random(1).sample(range(len(last.sources)), len(last.sources))
    for beam in args.beams:
        for batch_size in args.batches:
            most = args.sentences if batch_size > 1 else args.single_sentences
            timed = [[each[i] for i in order[:most]] for each in (last.sources, last.references)]
            text = Text(last.subset, *timed)
            rounds = speeds(work, models, text, args, beam, batch_size)
            setting = {"beam": beam, "batch_size": batch_size, "threads": args.threads}
            setting["sentences"] = len(text.sources)
            found = rows_of(rounds, models, args.baseline, setting)
            # fairseq has the BLEU of the fp32 export, which translates as it does.
            rows += [{**r, **bleu.get((r["label"], beam, r["compute_type"]), {})} for r in found]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Command line.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    entries = _check(parser, args)
    # After the command line, since this takes seconds.
    import sacrebleu
    from compared_models import Text, Work, contestant

    from neuroprune_experiments.evaluation import surroundings

    texts = [Text.read(args.data, subset) for subset in args.subset]
    work = Work(args.work)
    ready = tqdm(entries, desc="models", disable=None)
    models = [contestant(work, entry, args.data) for entry in ready]
    rows = compare(work, models, texts, args)
    versions = {"ctranslate2": ctranslate2.__version__, "sacrebleu": sacrebleu.__version__}
    result = {
        "command": shlex.join(["python", "benchmarks/bleu_and_speed.py", *(argv or sys.argv[1:])]),
        **{"baseline": args.baseline, "data": args.data, **surroundings(), **versions},
        "rows": rows,
    }
    with replacing(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(comparison_rows(rows)))


if __name__ == "__main__":
    main()
