"""A teacher's translations of a training text, made and kept chunk by chunk."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fairseq
from tqdm import tqdm

from neuroprune_experiments.distill.corpus import Corpus, read_lines, write_side
from neuroprune_experiments.evaluation import GenerationSettings, generate, read_hypotheses
from neuroprune_fairseq.cli import export
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import refuse, refusing

CHUNK = 1000  # sentences that are translated, and kept, at a time
CHECKED = 100  # sentences that the engine must translate as fairseq does
Translate = Callable[[int, range], list[str]]  # a chunk's number and sentences; lines of pieces


@dataclass(frozen=True)
class Job:
    """What is asked for."""

    data: Path
    checkpoints: tuple[Path, ...]
    out: Path
    beam: int
    workers: int
    joined: bool


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is missing or none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _export(job: Job, folder: Path) -> bool:
    """Whether there is an exported model in ``folder``, now or from an earlier start."""
    if len(job.checkpoints) > 1 or importlib.util.find_spec("ctranslate2") is None:
        return False
    if folder.is_dir():
        return True
    arguments = [str(job.checkpoints[0]), str(folder), "--data", str(job.data)]
    try:
        export.main([*arguments, "--subset", "train", "--sentences", str(CHECKED)])
    except SystemExit as left:
        print(f"translating with fairseq-generate: {left}")
        return False
    return True


def _by_engine(job: Job, corpus: Corpus, folder: Path) -> tuple[str, Translate]:
    import ctranslate2

    from neuroprune_experiments.engine import load, timed

    engine, batch_size = load(folder, job.workers), GenerationSettings().batch_size

    def translate(number: int, sentences: range) -> list[str]:
        with refusing(f"--checkpoint {job.checkpoints[0]} does not translate chunk {number}"):
            found = timed(engine, [corpus.pieces(i) for i in sentences], job.beam, batch_size)[0]
        return [" ".join(pieces) for pieces in found]

    return f"CTranslate2 {ctranslate2.__version__}", translate


def _by_fairseq(job: Job, corpus: Corpus, folder: Path) -> tuple[str, Translate]:
    """Each chunk is a part of a corpus of its own, without targets."""
    folder.mkdir(exist_ok=True)
    for language in corpus.pair:
        shutil.copy(corpus.data / f"dict.{language}.txt", folder)
    # Processes beside each other share the cores.
    threads = max(1, (os.cpu_count() or 1) // job.workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

    def translate(number: int, sentences: range) -> list[str]:
        part, output = f"part{number}", folder / f"part{number}.txt"
        stem = corpus.stem(corpus.pair[0], part, folder)
        write_side(stem, (corpus.sides[0][i] for i in sentences), corpus.dictionaries[0])
        settings = GenerationSettings(part, job.beam, flags=("--post-process", "none"))
        teachers = os.pathsep.join(map(str, job.checkpoints))
        generate(teachers, folder, settings, output, len(sentences))
        found = read_hypotheses(output)
        for path in (Path(f"{stem}.bin"), Path(f"{stem}.idx"), output):
            path.unlink()
        return found

    return f"fairseq-generate {fairseq.__version__}", translate


@contextmanager
def chunks_of(job: Job, made_from: dict[str, Any]) -> Iterator[Path]:
    """The folder beside --out in which translations are kept until all are there."""
    folder = job.out.parent / f".{job.out.name}.chunks"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refuse(f"--out {job.out}: another process is making it; wait for it")
        record = folder / "made-from.json"
        if not record.exists():
            with replacing(record) as temporary:
                write_json(temporary, made_from)
        if read_json(record) != made_from:
            refuse(
                f"{folder} holds translations of another command; remove it, or name a new --out"
            )
        yield folder
    finally:
        os.close(descriptor)


def translate_all(job: Job, corpus: Corpus, folder: Path) -> tuple[list[str], str]:
    """All translations in the corpus's order, those found in ``folder`` and new ones."""
    total = len(corpus.sides[0])
    ranges = [range(at, min(at + CHUNK, total)) for at in range(0, total, CHUNK)]
    files = [folder / f"{number:06}.txt" for number in range(len(ranges))]
    exported = _export(job, folder / "engine")
    by = _by_engine if exported else _by_fairseq
    engine, translate = by(job, corpus, folder / ("engine" if exported else "parts"))

    def work(number: int) -> int:
        lines = translate(number, ranges[number])
        if len(lines) != len(ranges[number]):
            refuse(f"{engine} translated {len(lines)} of {len(ranges[number])} sentences")
        with replacing(files[number]) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return len(lines)

    left = [number for number, file in enumerate(files) if not file.exists()]
    done = total - sum(len(ranges[number]) for number in left)
    pool = ThreadPoolExecutor(1 if exported else job.workers)  # the engine has threads of its own
    with tqdm(total=total, initial=done, desc=engine, unit=" sentences", disable=None) as progress:
        try:
            for future in as_completed([pool.submit(work, number) for number in left]):
                progress.update(future.result())
        finally:
            pool.shutdown(cancel_futures=True)
    lines = [line for file in files for line in read_lines(file)]
    if len(lines) != total:
        refuse(f"{folder} holds {len(lines)} translations of {total} sentences; remove it")
    return lines, engine
