"""Making a distilled corpus: translations, then all of the corpus at once, with its record.

The translations are taken over as the teacher made them, piece by piece: what sentencepiece would
make of their text may be another sequence than the one that the teacher finds likely.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from neuroprune_experiments.distill.corpus import Corpus, write_corpus
from neuroprune_experiments.distill.translations import (
    Job,
    chunks_of,
    read_json,
    translate_all,
    write_json,
)
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.checkpoint import read_checkpoint
from neuroprune_fairseq.files.errors import refuse, refusing
from neuroprune_fairseq.files.models import check_words

RECORD = "prepared.json"  # of every prepared corpus


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made_from(job: Job, corpus: Corpus) -> dict[str, Any]:
    """What the translations depend on; the teachers are read and checked on the way."""
    for path in job.checkpoints:
        check_words(read_checkpoint(path), f"--checkpoint {path}", *corpus.dictionaries)
    files = [*job.checkpoints, Path(f"{corpus.stem(corpus.pair[0])}.bin")]
    files += [corpus.data / f"dict.{language}.txt" for language in corpus.pair]
    return {"beam": job.beam, "files": [{path.name: _digest(path)} for path in files]}


def _settings(job: Job, old: dict[str, Any], made_from: dict[str, Any]) -> dict[str, Any]:
    return {**old.get("settings", {}), "distilled": {**made_from, "joined": job.joined}}


def _is_made(job: Job, settings: dict[str, Any]) -> bool:
    """Whether --out holds exactly this; refuses what else it may hold."""
    if not job.out.exists() or (job.out.is_dir() and not any(job.out.iterdir())):
        return False
    if read_json(job.out / RECORD).get("settings") != settings:
        refuse(f"--out {job.out} exists and is not what this command makes; name a new folder")
    return True


def make(job: Job) -> None:
    """Make the corpus of a job, or go on with it; nothing is at --out before all of it is.

    Raises:
        SystemExit: one line that names the flag or file.
    """
    corpus = Corpus(job.data)
    made_from = _made_from(job, corpus)
    old = read_json(job.data / RECORD)
    settings = _settings(job, old, made_from)
    if _is_made(job, settings):
        print(f"{job.out}: already made")
        return
    with (
        refusing(f"--out {job.out} cannot be written; make room or name another folder", OSError),
        chunks_of(job, made_from) as chunks,
    ):
        lines, engine = translate_all(job, corpus, chunks)
        with replacing(job.out) as folder:
            pairs, blank = write_corpus(corpus, folder, lines, job.joined)
            record = {**old, "settings": settings, "notes": {"translated_by": engine}}
            for name, number in {"pairs": pairs, "dropped_blank_pairs": blank}.items():
                record[name] = {**old.get(name, {}), "train": number}
            write_json(folder / RECORD, record)
        shutil.rmtree(chunks, ignore_errors=True)
    print(f"{job.out}: {pairs} pairs to train with, {blank} with a blank translation left out")
