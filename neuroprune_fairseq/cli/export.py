"""``neuroprune-export --engine ctranslate2 IN OUT_DIR``: a model for a fast engine, checked."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    return parser


def _check_sentences(task: Any, subset: str, wanted: int, data: str) -> tuple[Any, range]:
    """The dataset of the parity check and the numbers of its sentences."""
    with refusing(f"--subset {subset}: {data} holds no such text; scripts/prepare.sh makes it"):
        task.load_dataset(subset)
    dataset = task.dataset(subset)
    if isinstance(dataset, RoundRobinZipDatasets):  # of the languages that were asked for
        dataset = dataset.datasets[dataset.eval_key]
    return dataset, range(min(wanted, len(dataset)))


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
    dataset, numbers = _check_sentences(task, arguments.subset, arguments.sentences, data)
    converter = (model, settings, task.source_dictionary, task.target_dictionary)
    unwritable = f"OUT_DIR {out} cannot be written; make room or name another"
    with refusing(unwritable, OSError), replacing(out) as temporary:
        ModelConverter(*converter).convert(str(temporary))
        line = _check_parity(temporary, model, task, dataset, numbers)
        if arguments.quantization:
            ModelConverter(*converter).convert(
                str(temporary), quantization=arguments.quantization, force=True
            )
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
    if arguments.sentences < 1:
        parser.error(f"--sentences {arguments.sentences} must be at least 1")
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
    line = _export(arguments, settings, _corpus(arguments, state))
    print(f"{line}\n{out}: {sum(f.stat().st_size for f in out.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
