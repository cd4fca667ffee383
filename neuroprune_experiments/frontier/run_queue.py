"""Which run is next, for any number of workers on one study.

The study is the only register: a trial is a run, its user attributes hold the setting,
the seed and, at the end, the record. A run is taken when its trial is set to RUNNING, no
other trial of the same run is finished or running, and its folder's lock is held.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from neuroprune_experiments.frontier.methods import METHODS, Range, Settings, canonical, run_key
from neuroprune_experiments.frontier.records import read_results
from neuroprune_experiments.frontier.runner import Run, claim, try_lock
from neuroprune_fairseq.files.results import append_line

# A worker on another machine that gave no sign of life for so long (s) is taken for dead.
GRACE = 900
HEARTBEAT = 60
# The sampler may propose what is known; after so many times in a row it is left at that.
_PROPOSALS = 30


@dataclass(frozen=True)
class Plan:
    """What is to be run: a grid, or a number of sampled settings; each with every seed."""

    seeds: Sequence[int]
    grid: Sequence[Settings] = ()
    samples: int = 0
    heads_total: int = 0

    @property
    def total(self) -> int:
        """Number of runs."""
        return (self.samples or len(self.grid)) * len(self.seeds)


@dataclass
class Taken:
    """A run that is ours to do."""

    run: Run
    trial: Trial
    descriptor: int


def _suggest(trial: Trial, name: str, space: Range, heads_total: int) -> str:
    high = heads_total if space.high is None else space.high
    if space.whole:
        return canonical(trial.suggest_int(name, int(space.low), int(high), log=space.log))
    return canonical(f"{trial.suggest_float(name, space.low, high, log=space.log):.3g}")


class Queue:
    """The runs of one method in one study."""

    def __init__(self, study: optuna.Study, method: str, out: Path, plan: Plan) -> None:
        self.study, self.method, self.out, self.plan = study, method, out, plan
        self.own: dict[int, Trial] = {}  # running in this process
        self.given_up: set[str] = set()  # failed here: not again before the next start
        self._wanted = [
            Run(method, settings, seed) for settings in plan.grid for seed in plan.seeds
        ]

    # Reading the study.

    def _run(self, trial: FrozenTrial | Trial) -> Run | None:
        attributes = trial.user_attrs
        if "settings" not in attributes:
            return None
        return Run(self.method, attributes["settings"], attributes["seed"])

    def _runs(self, *states: TrialState) -> list[tuple[FrozenTrial, Run]]:
        trials = self.study.get_trials(deepcopy=False, states=states)
        pairs = ((trial, self._run(trial)) for trial in trials)
        return [(trial, run) for trial, run in pairs if run]

    def finished(self) -> dict[str, FrozenTrial]:
        """The finished runs by key."""
        pairs = self._runs(TrialState.COMPLETE)
        return {run.key: trial for trial, run in pairs if "record" in trial.user_attrs}

    def done(self) -> int:
        """How many runs of the plan are finished."""
        finished = self.finished()
        if self.plan.samples:
            pairs = self._runs(TrialState.COMPLETE)
            sampled = {run.key for trial, run in pairs if trial.user_attrs.get("sampled")}
            return min(self.plan.total, len(sampled & finished.keys()))
        return sum(run.key in finished for run in self._wanted)

    def running(self) -> int:
        """How many runs are under way, here and in other workers."""
        return len(self._runs(TrialState.RUNNING))

    def seconds_per_run(self) -> float | None:
        """Mean time of the finished runs, None without any."""
        spans = [trial.duration for trial in self.finished().values() if trial.duration]
        total = sum(spans, datetime.timedelta())
        return total.total_seconds() / len(spans) if spans else None

    # Taking a run.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = try_lock(self.out / ".lock", wait=True)
        try:
            yield
        finally:
            os.close(descriptor)

    def take(self) -> Taken | None:
        """The next run, None if there is nothing (more) to take for this worker."""
        with self._locked():
            self._give_back_abandoned()
            for _ in range(_PROPOSALS + len(self._wanted)):
                self._queue_missing()
                if not self._waiting() and not self._may_sample():
                    return None
                taken = self._take_one()
                if taken:
                    return taken
        return None

    def _waiting(self) -> bool:
        return bool(self._runs(TrialState.WAITING))

    def _queue_missing(self) -> None:
        """Put the grid's runs into the queue that are not finished, running or queued."""
        states = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
        known = {run.key for _, run in self._runs(*states)} | self.given_up
        for run in self._wanted:
            if run.key not in known:
                self._enqueue({}, run)

    def _enqueue(self, params: dict[str, Any], run: Run, **attributes: Any) -> None:
        attributes |= {"settings": run.settings, "seed": run.seed}
        self.study.enqueue_trial(params, user_attrs=attributes)

    def _may_sample(self) -> bool:
        states = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
        pairs = [pair for pair in self._runs(*states) if pair[0].user_attrs.get("sampled")]
        settings = {json.dumps(run.settings, sort_keys=True) for _, run in pairs}
        return len(settings) + len(self.given_up) < self.plan.samples

    def _take_one(self) -> Taken | None:
        trial = self.study.ask()
        if "settings" not in trial.user_attrs:
            if not self._may_sample():  # another worker was faster
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            self._sample(trial)
        elif trial.user_attrs.get("sampled"):
            self._suggest_all(trial)  # enqueued values: tells the sampler what was tried
        run = self._run(trial)
        if self._settle_known(trial, run):
            return None
        descriptor = claim(self.out, run)
        if descriptor is None:  # a training outlived its worker
            self.given_up.add(run.key)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_user_attr("host", f"{socket.gethostname()}:{self.out.resolve()}")
        trial.set_user_attr("alive", time.time())
        self.own[trial.number] = trial
        return Taken(run, trial, descriptor)

    def _suggest_all(self, trial: Trial) -> Settings:
        search = METHODS[self.method].search.items()
        return {name: _suggest(trial, name, space, self.plan.heads_total) for name, space in search}

    def _sample(self, trial: Trial) -> None:
        """Let the sampler choose a setting; the other seeds of a new one are queued."""
        settings = self._suggest_all(trial)
        run, *others = [Run(self.method, settings, seed) for seed in self.plan.seeds]
        known = {old.key for _, old in self._runs(*TrialState)}
        trial.set_user_attr("seed", run.seed)
        trial.set_user_attr("sampled", True)
        trial.set_user_attr("settings", settings)
        for other in others:
            if other.key not in known:
                self._enqueue(trial.params, other, sampled=True)

    def _settle_known(self, trial: Trial, run: Run) -> bool:
        """Whether a run is finished, under way elsewhere or given up: then its trial ends."""
        finished = self.finished().get(run.key)
        if finished:
            self.study.tell(trial, finished.values)
            return True
        running = self._runs(TrialState.RUNNING)
        others = [t for t, other in running if other == run and t.number != trial.number]
        if others or run.key in self.given_up:
            self.study.tell(trial, state=TrialState.FAIL)
            return True
        return False

    # Runs of workers that are no more.

    def _give_back_abandoned(self) -> None:
        for trial, run in self._runs(TrialState.RUNNING):
            if trial.number in self.own or not self._is_abandoned(trial, run):
                continue
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except ValueError:  # another worker was faster
                continue
            if trial.user_attrs.get("sampled"):  # a grid's run is queued as missing anyway
                self._enqueue(trial.params, run, sampled=True)

    def _is_abandoned(self, trial: FrozenTrial, run: Run) -> bool:
        if trial.user_attrs.get("host") == f"{socket.gethostname()}:{self.out.resolve()}":
            descriptor = claim(self.out, run)
            if descriptor is not None:
                os.close(descriptor)
            return descriptor is not None
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return time.time() - trial.user_attrs.get("alive", started) > GRACE

    def beat(self) -> None:
        """Give a sign of life for every run of this process."""
        for trial in list(self.own.values()):
            # It may have ended in this moment.
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr("alive", time.time())

    # The end of a run.

    def finish(self, taken: Taken, record: dict[str, Any]) -> None:
        """Store a record, in the study first, then in results.jsonl."""
        values = [record["valid_bleu"], record["heads_kept"], record["total_sparsity"]]
        try:
            taken.trial.set_user_attr("record", record)
            self.study.tell(taken.trial, values)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            # We were taken for dead, as a machine that slept.
            attributes = {**taken.trial.user_attrs, "record": record}
            self.study.add_trial(
                optuna.create_trial(state=TrialState.COMPLETE, values=values, user_attrs=attributes)
            )
        self.write_results()
        self._release(taken)

    def fail(self, taken: Taken, reason: str, again: bool = False) -> None:
        """End a run without a record; ``again``: it may be taken at once."""
        try:
            taken.trial.set_user_attr("reason", reason)
            self.study.tell(taken.trial, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            pass  # we were taken for dead, which says the same
        if not again:
            self.given_up.add(taken.run.key)
        self._release(taken)

    def _release(self, taken: Taken) -> None:
        self.own.pop(taken.trial.number, None)
        os.close(taken.descriptor)

    def write_results(self) -> None:
        """Add to results.jsonl what the study has and the file lacks."""
        path = self.out / "results.jsonl"
        with self._locked():
            written = read_results([path]) if path.exists() and path.stat().st_size else []
            known = {
                run_key(record["method"], record["settings"], record["seed"])
                for record in written
                if isinstance(record.get("settings"), dict) and "seed" in record
            }
            for key, trial in self.finished().items():
                if key not in known:
                    append_line(path, trial.user_attrs["record"])
