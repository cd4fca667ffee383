"""Where a sweep is kept: Optuna's database, and what its runs must have in common."""

from __future__ import annotations

import hashlib
import os
import random
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from neuroprune_experiments.frontier.runner import Experiment
from neuroprune_fairseq.files.errors import refuse, refusing

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

# Objectives: BLEU on the validation set, heads kept, total sparsity.
DIRECTIONS = ("maximize", "minimize", "maximize")
# A running worker gives a sign of life so often (s), and is dead when it gave none for so long.
HEARTBEAT, GRACE = 15, 60
# Workers that make the tables of one new database at the same moment disturb each other.
ATTEMPTS = 8
WAIT = 60.0  # s for a SQLite file that another worker writes to

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
_RUNNING = sqlalchemy.text(
    "SELECT trials.trial_id, heartbeat FROM trials LEFT JOIN trial_heartbeats"
    " ON trial_heartbeats.trial_id = trials.trial_id WHERE study_id = :study AND state = 'RUNNING'"
)


class Storage(RDBStorage):
    """Optuna's database with heartbeats; the runs of dead workers are queued again.

    A run is stale when its heartbeat stands still for GRACE seconds of our own clock. Optuna
    compares it with the present time, and SQLite takes that from the machine that asks: a
    worker whose clock is ahead would take away what others are doing.
    """

    def __init__(self, url: str) -> None:
        is_sqlite = sqlalchemy.make_url(url).get_backend_name() == "sqlite"
        super().__init__(
            url,
            {"connect_args": {"timeout": WAIT}} if is_sqlite else None,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
        self._still: dict[tuple, float] = {}  # (trial, heartbeat): seen first, by our clock
        if is_sqlite:
            _lock_from_the_start(self.engine)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        with self.engine.connect() as connection:
            beats = [tuple(row) for row in connection.execute(_RUNNING, {"study": study_id})]
        now, seen = time.monotonic(), self._still
        self._still = {beat: seen.get(beat, now) for beat in beats}
        return [beat[0] for beat, since in self._still.items() if now - since > self.grace_period]


def _lock_from_the_start(engine: sqlalchemy.Engine) -> None:
    """Lock a SQLite file when a transaction begins, not when it first writes.

    Otherwise two workers may both read that a run waits, and both take it.
    """
    engine.dispose()  # connections from before
    sqlalchemy.event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    sqlalchemy.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))


def open_storage(url: str | None, out: Path) -> Storage:
    """The storage of a URL or, without one, study.db in the run folder.

    Raises:
        SystemExit: one line, when it cannot be opened, or lives in memory only.
    """
    if url is None:
        path = str((out / "study.db").resolve()).replace("{", "{{").replace("}", "}}")
        url = sqlalchemy.URL.create("sqlite", database=path).render_as_string()
        what = f"--out {out} cannot be written, or its study.db is damaged"
    else:
        what = "--storage cannot be opened; name a database, as in sqlite:////PATH/study.db"
    with refusing(what):  # whatever the URL's driver may raise
        place = sqlalchemy.make_url(url)
        name = place.database or ""
        in_memory = not name or ":memory:" in name or place.query.get("mode") == "memory"
        if place.get_backend_name() == "sqlite" and in_memory:
            refuse(f"--storage {url} would be lost with its worker; name sqlite:////PATH/study.db")
        for attempt in range(ATTEMPTS):
            try:
                return Storage(url)
            except Exception:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.05, 0.3))
    raise AssertionError


def _digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def corpus_digest(data: Path) -> str:
    """What tells prepared corpora apart: dictionaries and the length of their parts."""
    parts: list[bytes] = []
    for path in sorted([*data.glob("dict.*.txt"), *data.glob("*.idx")]):
        is_text = path.suffix == ".txt"
        parts += [
            os.fsencode(path.name),
            path.read_bytes() if is_text else b"%d" % path.stat().st_size,
        ]
    return _digest(parts)


def experiment_facts(experiment: Experiment, architecture: str) -> dict[str, Any]:
    """What must stay the same from run to run of a study."""
    with experiment.pretrained.open("rb") as file:
        checkpoint = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "architecture": architecture,
        "checkpoint": checkpoint,
        "corpus": corpus_digest(experiment.data),
        "tolerance": experiment.tolerance,
        "epochs": experiment.epochs,
        "flags": " ".join(experiment.flags),
    }


def _check_facts(old: Mapping[str, Any], new: Mapping[str, Any], where: Path) -> None:
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
    own, storage = f"{name}/{experiment.method}", open_storage(url, experiment.out)
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        earlier = summary.user_attrs.get("facts", {})
        if summary.study_name == own:
            _check_facts(earlier, facts, experiment.out)
        elif summary.study_name.startswith(f"{name}/"):
            _check_facts(earlier, {fact: facts[fact] for fact in SHARED_FACTS}, experiment.out)
    # Multi-objective TPE, which does not propose what another worker is trying already.
    sampler = optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=8)
    study = optuna.create_study(
        storage=storage,
        study_name=own,
        directions=list(DIRECTIONS),
        load_if_exists=True,
        sampler=sampler,
    )
    if "facts" not in study.user_attrs:
        study.set_user_attr("facts", dict(facts))
    return study
