"""``neuroprune-export --engine ctranslate2 IN OUT_DIR``: a model for a fast engine, checked."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.data import RoundRobinZipDatasets
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from fairseq.tasks import LegacyFairseqTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from torch import nn

from neuroprune_fairseq.compact.state import check_settings
from neuroprune_fairseq.files.atomic import remove_leftovers, replacing
from neuroprune_fairseq.files.checkpoint import read_checkpoint, settings_group
from neuroprune_fairseq.files.errors import OneLineParser, refuse, refusing
from neuroprune_fairseq.files.models import load_model_and_task, settings_of

if TYPE_CHECKING:
    from neuroprune_fairseq.export.shortlist import Shortlist

QUANTIZATIONS: tuple[str, ...] = ("int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16")
QUANTIZATIONS += ("float16", "bfloat16", "float32")
SAME, SCORE_LIMIT = 0.99, 1e-3
MODEL_FILE = "model.bin"  # what an exported model is known by


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="neuroprune-export",
        description="Export a checkpoint of fairseq's transformer, bart, multilingual_transformer "
        "or transformer_lm, compact or not. What is pruned is cut out on the way. Before OUT_DIR "
        "gets its name, the export must translate sentences of the corpus, or score and continue "
        "texts, as fairseq does.",
    )
    parser.add_argument("input", metavar="IN", help="checkpoint")
    parser.add_argument("output", metavar="OUT_DIR", help="folder to write")
    parser.add_argument("--engine", choices=["ctranslate2"], default="ctranslate2")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="how the engine stores weights; the check is done in fp32 before (default: fp32)",
    )
    parser.add_argument(
        "--data", help="prepared corpus with the dictionaries (default: as in training)"
    )
    parser.add_argument(
        "--sentencepiece-model",
        metavar="FILE",
        help="put beside the model as spm.model (default: spm.model of the corpus, if it has one)",
    )
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-lang", metavar="LANG", help=f"{side} language of a multilingual_transformer"
        )
    parser.add_argument("--subset", default="test", help="part of the corpus for the check")
    parser.add_argument(
        "--sentences", type=int, default=500, metavar="N", help="number of sentences for the check"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT_DIR if it exists")
    _add_speed(parser)
    return parser


def _add_speed(parser: argparse.ArgumentParser) -> None:
    """The flags of the shortlist and of the benchmark."""
    add = parser.add_argument
    add(
        "--shortlist",
        action="store_true",
        help="make vmap.txt, the target tokens that a source token can need, from the training "
        "set; for translate_batch(..., use_vmap=True)",
    )
    size = "candidates of a source token at most (default: 100)"
    add("--shortlist-size", type=int, default=100, metavar="N", help=size)
    frequent = "most frequent target tokens that are always kept (default: 100)"
    add("--shortlist-frequent", type=int, default=100, metavar="N", help=frequent)
    pairs = "pairs of the training set that are read, from all over it (default: 100000)"
    add("--shortlist-pairs", type=int, default=100_000, metavar="N", help=pairs)
    benchmark = "measure speed and BLEU here: compute types, beam and greedy, with --shortlist"
    add("--benchmark", action="store_true", help=benchmark)
    add("--threads", type=int, default=1, metavar="N", help="of the benchmark (default: 1)")


def _dataset(task: Any, subset: str, data: str, flag: str) -> Any:
    """A part of the corpus that a flag asks for."""
    with refusing(f"{flag}: {data} holds no such text; scripts/prepare.sh makes it"):
        task.load_dataset(subset)
    dataset = task.dataset(subset)
    if isinstance(dataset, RoundRobinZipDatasets):  # of the languages that were asked for
        dataset = dataset.datasets[dataset.eval_key]
    return dataset


def _check_sentencepiece_model(path: Path) -> None:
    if importlib.util.find_spec("sentencepiece") is None:
        return
    sentencepiece = importlib.import_module("sentencepiece")
    with refusing(f"--sentencepiece-model {path} is no model of sentencepiece"):
        sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())


def _sentencepiece_model(named: str | None, data: str) -> Path | None:
    path = Path(named or Path(data) / "spm.model")
    if path.is_file():
        _check_sentencepiece_model(path)
        return path
    if named:
        refuse(f"--sentencepiece-model {named}: no such file")
    return None


def _check_parity(folder: Path, model: nn.Module, task: Any, dataset: Any, numbers: range) -> str:
    """Compare the fp32 export with fairseq.

    Returns:
        One line on how far they agree.

    Raises:
        SystemExit: when they agree too little.
    """
    from neuroprune_fairseq.export.parity import check_translations
    from neuroprune_fairseq.export.text_parity import check_texts

    check, outputs, does = check_translations, "translations", "translate"
    if isinstance(task, LanguageModelingTask):
        check, outputs, does = check_texts, "continuations", "score and continue texts"
    agreement = check(folder, model, task, dataset, numbers)
    line = (
        f"{agreement.same:.1%} of {len(numbers)} {outputs} are those of fairseq, "
        f"scores differ by at most {agreement.score_difference:.1e}"
    )
    if agreement.same < SAME or not agreement.score_difference <= SCORE_LIMIT:
        refuse(f"the export does not {does} as fairseq does ({line}); nothing was written")
    return line


def _shortlist(arguments: argparse.Namespace, task: Any, data: str) -> Shortlist | None:
    """The shortlist that is asked for, from the training set."""
    from neuroprune_fairseq.export.shortlist import build_shortlist, sample_pairs

    if not arguments.shortlist:
        return None
    pairs = sample_pairs(_dataset(task, "train", data, "--shortlist"), arguments.shortlist_pairs)
    sizes = (arguments.shortlist_size, arguments.shortlist_frequent)
    return build_shortlist(pairs, task.source_dictionary, task.target_dictionary, *sizes)


def _try_speed(
    folder: Path,
    task: Any,
    dataset: Any,
    numbers: range,
    shortlist: Shortlist | None,
    threads: int | None,
) -> str:
    """What a shortlist changes and what the benchmark says, as far as asked for; fp32."""
    from neuroprune_fairseq.export.benchmark import report
    from neuroprune_fairseq.export.parity import Engine
    from neuroprune_fairseq.export.scoring import compare_shortlist, references
    from neuroprune_fairseq.export.shortlist import read_pair

    source, target = task.source_dictionary, task.target_dictionary
    expected, lines = references(dataset, numbers, target), []
    if shortlist:
        coverage = shortlist.coverage(read_pair(dataset, number) for number in numbers)
        shortlist.facts["coverage"] = round(coverage, 4)
        shortlist.write(folder, source, target)
        changed = compare_shortlist(Engine(folder, dataset, source, numbers), expected, target)
        lines.append(f"shortlist: {coverage:.1%} of reference tokens covered, {changed}")
    if threads:
        sources = Engine(folder, dataset, source, numbers).sources
        lines.append(report(folder, sources, expected, target, threads))
    return "".join(f"\n{line}" for line in lines)


def _finish(folder: Path, data: str, task: Any, spm: Path | None) -> None:
    """Put the dictionaries and the sentencepiece model beside the exported model."""
    settings = task.args if isinstance(task, LegacyFairseqTask) else task.cfg
    languages = {getattr(settings, f"{side}_lang", None) for side in ("source", "target")}
    for language in languages:
        shutil.copy(Path(data) / (f"dict.{language}.txt" if language else "dict.txt"), folder)
    if spm:
        shutil.copy(spm, folder / "spm.model")


def _language_pair(arguments: argparse.Namespace, settings: Any) -> dict[str, str]:
    """The languages of a multilingual model to export; nothing for other models."""
    pair = {"source_lang": arguments.source_lang, "target_lang": arguments.target_lang}
    if ARCH_MODEL_NAME_REGISTRY[settings.arch] != "multilingual_transformer":
        if any(pair.values()):
            refuse("--source-lang, --target-lang: for a multilingual_transformer; this is none")
        return {}
    known = settings.lang_pairs
    known = known.split(",") if isinstance(known, str) else known
    if "-".join(map(str, pair.values())) not in known:
        refuse(f"--source-lang, --target-lang: name one of {', '.join(known)}")
    return pair


def _export(arguments: argparse.Namespace, settings: Any, data: str) -> str:
    from neuroprune_fairseq.export.converter import ModelConverter, padding

    out, spm = Path(arguments.output), _sentencepiece_model(arguments.sentencepiece_model, data)
    pair = _language_pair(arguments, settings)
    model, task = load_model_and_task(arguments.input, data, **pair)
    model = (model.models["-".join(pair.values())] if pair else model).float().eval()
    if isinstance(task, LanguageModelingTask) and (arguments.shortlist or arguments.benchmark):
        refuse("--shortlist, --benchmark: for models that translate; this is a language model")
    dataset = _dataset(task, arguments.subset, data, f"--subset {arguments.subset}")
    numbers = range(min(arguments.sentences, len(dataset)))
    shortlist = _shortlist(arguments, task, data)
    converter = (model, settings, task.source_dictionary, task.target_dictionary)
    unwritable = f"OUT_DIR {out} cannot be written; make room or name another"
    with refusing(unwritable, OSError), replacing(out) as temporary:
        ModelConverter(*converter).convert(str(temporary))
        line = _check_parity(temporary, model, task, dataset, numbers)
        if shortlist or arguments.benchmark:
            threads = arguments.threads if arguments.benchmark else None
            line += _try_speed(temporary, task, dataset, numbers, shortlist, threads)
        if arguments.quantization:
            ModelConverter(*converter).convert(
                str(temporary), quantization=arguments.quantization, force=True
            )
        if shortlist:
            shortlist.write(temporary, task.source_dictionary, task.target_dictionary)
        _finish(temporary, data, task, spm)
    line += f"\n{padding(model)}"
    if spm is None:
        line += f"\nno spm.model in {data}: name one with --sentencepiece-model for raw text"
    return line


def _corpus(arguments: argparse.Namespace, state: dict[str, Any]) -> str:
    trained_on = str(getattr(settings_group(state, "task"), "data", ""))
    data = arguments.data or trained_on.split(os.pathsep)[0]
    if not data or not Path(data).is_dir():
        refuse(f"{data}: no such corpus; name the prepared corpus with --data")
    return data


def check_supported(state: dict[str, Any], settings: argparse.Namespace, path: str) -> None:
    """Refuse a model that CTranslate2 has no counterpart for, in one line that names the flags."""
    from neuroprune_fairseq.export.converter import MODELS, unsupported

    if (model := ARCH_MODEL_NAME_REGISTRY[settings.arch]) not in MODELS:
        refuse(f"{path}: CTranslate2 gets models {', '.join(MODELS)} only, not {model!r}")
    task = vars(settings_group(state, "task") or argparse.Namespace())
    named = {"task": task.get("_name") or task.get("task")}
    if wrong := unsupported(argparse.Namespace(**{**task, **vars(settings), **named})):
        refuse(f"{path}: CTranslate2 has no counterpart for {', '.join(wrong)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``neuroprune-export``.

    Args:
        argv: arguments without the program's name; None reads the command line.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("ctranslate2") is None:
        parser.error("--engine ctranslate2 needs the package of that name: pip install ctranslate2")
    out = Path(arguments.output)
    for name in ("sentences", "shortlist_size", "shortlist_frequent", "shortlist_pairs", "threads"):
        if (number := getattr(arguments, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} {number} must be at least 1")
    if not out.parent.is_dir():
        parser.error(f"OUT_DIR {out}: {out.parent} is no folder")
    remove_leftovers(out.parent)  # an export that was killed may have moved OUT_DIR away
    if out.exists() and not arguments.overwrite:
        parser.error(f"OUT_DIR {out} exists; --overwrite replaces an exported model")
    if out.exists() and not (out.is_dir() and (out / MODEL_FILE).is_file()):
        parser.error(f"OUT_DIR {out} is no exported model; name another folder")
    state = read_checkpoint(arguments.input)
    settings = settings_of(state, arguments.input)
    check_settings(settings, arguments.input)
    check_supported(state, settings, arguments.input)
    data = _corpus(arguments, state)
    del state  # as large as the model, which fairseq reads again
    line = _export(arguments, settings, data)
    print(f"{line}\n{out}: {sum(f.stat().st_size for f in out.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
