"""Optuna's study of one method: where it is stored, and what its runs must have in common."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from neuroprune_experiments.frontier.runner import Experiment, try_lock
from neuroprune_fairseq.files.errors import refuse, refusing

optuna.logging.set_verbosity(optuna.logging.WARNING)

# Objectives: BLEU on the validation set, heads kept, total sparsity.
DIRECTIONS = ("maximize", "minimize", "maximize")

# What all methods of a run folder share; the rest is shared by one method's runs.
SHARED_FACTS = ("architecture", "checkpoint", "corpus", "tolerance")
_FACT_TEXTS = {
    "architecture": "--pretrained has the architecture {new}, but",
    "checkpoint": "--pretrained is another checkpoint ({new}); the one of",
    "corpus": "--data is another corpus ({new}); the one of",
    "tolerance": "--tolerance is {new}, but the one of",
    "epochs": "--epochs is {new}, but the number of",
    "flags": "the further flags are '{new}', but those of",
}


def file_digest(path: Path) -> str:
    """First 16 digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def corpus_digest(data: Path) -> str:
    """What tells prepared corpora apart: dictionaries and the length of their parts."""
    digest = hashlib.sha256()
    for path in sorted([*data.glob("dict.*.txt"), *data.glob("*.idx")]):
        digest.update(os.fsencode(path.name))
        digest.update(path.read_bytes() if path.suffix == ".txt" else _size(path))
    return digest.hexdigest()[:16]


def _size(path: Path) -> bytes:
    return str(path.stat().st_size).encode()


def experiment_facts(experiment: Experiment, architecture: str) -> dict[str, Any]:
    """What must stay the same from run to run of a study."""
    return {
        "architecture": architecture,
        "checkpoint": file_digest(experiment.pretrained),
        "corpus": corpus_digest(experiment.data),
        "tolerance": experiment.tolerance,
        "epochs": experiment.epochs,
        "flags": " ".join(experiment.flags),
    }


def cut_torn_line(journal: Path, lock: JournalFileSymlinkLock) -> None:
    """Remove the half line that a full disk has left; Optuna would write on behind it.

    Args:
        journal: may be missing.
        lock: the one that all writers take.
    """
    if not journal.exists():
        return
    lock.acquire()
    try:
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def open_storage(url: str | None, out: Path) -> JournalStorage | RDBStorage:
    """The storage of a URL or, without one, a journal file in the run folder.

    The journal is a file that is only ever added to, under a lock that also works on
    network file systems: any number of processes may use it.

    Raises:
        SystemExit: one line, when it cannot be opened.
    """
    what = "--storage" if url else str(out / "study.journal")
    with refusing(f"{what} cannot be opened"):  # errors of the URL's database driver, too
        if url:
            return RDBStorage(url)
        journal = str(out / "study.journal")
        lock = JournalFileSymlinkLock(journal)
        cut_torn_line(out / "study.journal", lock)
        return JournalStorage(JournalFileBackend(journal, lock))


def _check_facts(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> None:
    """Refuse runs that cannot be compared with those that are there."""
    for name in new:
        if name in old and old[name] != new[name]:
            text = _FACT_TEXTS[name].format(new=new[name])
            refuse(f"{text} earlier runs in {where} is {old[name]}; name another --out")


def open_study(
    experiment: Experiment, facts: Mapping[str, Any], url: str | None, name: str
) -> optuna.Study:
    """Make the study of a method, or go on with it.

    Args:
        experiment: names the method and the run folder.
        facts: as :func:`experiment_facts` returns them.
        url: of the storage; None for the file in the run folder.
        name: of the comparison; the study is called ``name/method``.

    Raises:
        SystemExit: one line, when earlier runs differ in what must be the same.
    """
    # Two processes that make the tables of a new database at once would disturb each other.
    descriptor = try_lock(experiment.out / ".lock", wait=True)
    try:
        storage = open_storage(url, experiment.out)
        damaged = f"the storage in {experiment.out} is damaged; name another --out"
        with refusing(damaged, ValueError, KeyError, TypeError):
            return _checked_study(storage, experiment, facts, name)
    finally:
        os.close(descriptor)


def _checked_study(storage: Any, experiment: Experiment, facts: Any, name: str) -> optuna.Study:
    own = f"{name}/{experiment.method}"
    for summary in optuna.get_all_study_summaries(storage):
        earlier = summary.user_attrs.get("facts", {})
        if summary.study_name == own:
            _check_facts(earlier, facts, str(experiment.out))
        elif summary.study_name.startswith(f"{name}/"):
            shared = {fact: facts[fact] for fact in SHARED_FACTS}
            _check_facts(earlier, shared, str(experiment.out))
    study = optuna.create_study(
        storage=storage,
        study_name=own,
        directions=list(DIRECTIONS),
        load_if_exists=True,
        sampler=_sampler(),
    )
    if "facts" not in study.user_attrs:
        study.set_user_attr("facts", dict(facts))
    return study


def _sampler() -> optuna.samplers.BaseSampler:
    """Multi-objective TPE, which does not propose what another worker is trying already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=8)
