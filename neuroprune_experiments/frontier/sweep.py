"""A sweep: Optuna hands out the runs of one method to any number of workers.

A trial is a run: its user attributes hold the setting, the seed and, at the end, the record.
"""

from __future__ import annotations

import datetime
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from neuroprune_experiments.frontier import storage
from neuroprune_experiments.frontier.methods import Plan, Run, suggest
from neuroprune_experiments.frontier.runner import (
    RunFailedError,
    StoppedError,
    describe,
    say,
    try_lock,
)
from neuroprune_experiments.records import read_frontier
from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.files.results import append_line

# So many failures without a success in between are no accident of one setting.
FAILURES_IN_A_ROW = 3
# The sampler may propose what is known; after so many times in a row it is left at that.
PROPOSALS = 30
# What Optuna raises where a trial that ends has been ended by another worker.
TAKEN_FOR_DEAD = (ValueError, AssertionError, optuna.exceptions.UpdateFinishedTrialError)
# Other trials have failed, or were never begun.
LIVE = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)


class Sweep:
    """One worker on a study: ``jobs`` runs at a time.

    Of several trials of one run, as workers that start at the same moment may queue, the first
    counts. ``runner`` is a :class:`.runner.ScriptRunner` or stands in for one.
    """

    def __init__(
        self, study: optuna.Study, method: str, out: Path, plan: Plan, runner: Any, jobs: int = 1
    ) -> None:
        self.study, self.method, self.out, self.plan = study, method, out, plan
        self.runner, self.jobs = runner, jobs
        self.failed: list[str] = []
        self._wanted = [Run(method, each, seed) for each in plan.grid for seed in plan.seeds]
        self._in_a_row = self._proposals = 0
        self._seconds: list[float] = []  # of the runs done here
        self._errors: list[BaseException] = []
        self._stopped = self._ended = False  # from outside; nothing new is begun

    # Reading the study.

    def _run(self, trial: FrozenTrial | Trial) -> Run:
        return Run(self.method, trial.user_attrs["settings"], trial.user_attrs["seed"])

    def _trials(self, *states: TrialState) -> list[tuple[FrozenTrial, Run]]:
        trials = self.study.get_trials(deepcopy=False, states=states or None)
        return [(trial, self._run(trial)) for trial in trials if "settings" in trial.user_attrs]

    def finished(self) -> dict[str, dict[str, Any]]:
        """The records of the finished runs, by name."""
        there = ((trial.user_attrs.get("record"), run) for trial, run in self._trials(*LIVE))
        return {run.name: record for record, run in there if record}

    def _sampled(self) -> list[int]:
        """The first trial of every sampled setting."""
        pairs = reversed(self._trials(*LIVE))
        firsts = {
            str(sorted(run.settings.items())): trial.number
            for trial, run in pairs
            if trial.user_attrs.get("sampled")
        }
        return sorted(firsts.values())

    def done(self) -> int:
        """How many runs of the plan are finished."""
        if not self.plan.samples:
            return len({run.name for run in self._wanted} & self.finished().keys())
        sampled = {run.name for trial, run in self._trials(*LIVE) if "sampled" in trial.user_attrs}
        return min(self.plan.total, len(sampled & self.finished().keys()))

    def _may_sample(self) -> bool:
        known = len(self._sampled()) + len(self.failed)
        return known < self.plan.samples and self._proposals < PROPOSALS

    def _work_left(self) -> bool:
        return not self._ended and (bool(self._trials(TrialState.WAITING)) or self._may_sample())

    # Working.

    def work(self) -> None:
        """Do what there is to do; runs of workers that died meanwhile are waited for.

        Raises:
            SystemExit: one line, when runs failed.
            KeyboardInterrupt: after what was running has been stopped.
        """
        self._queue_grid()
        self.write_results()
        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if in_main else ()
        handlers = {number: signal.signal(number, self._stop) for number in signals}
        try:
            self._loop()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self.write_results()  # what others did meanwhile, too
        self._report()

    def _loop(self) -> None:
        idle: float | None = None
        while not self._ended:
            fail_stale_trials(self.study)
            if self._work_left():
                with suppress(*TAKEN_FOR_DEAD):  # as a machine that slept
                    self.study.optimize(
                        self._objective,
                        n_jobs=self.jobs,
                        catch=(RunFailedError,),
                        callbacks=[lambda study, _: None if self._work_left() else study.stop()],
                    )
                idle = None
            elif not (running := len(self._trials(TrialState.RUNNING))):
                return
            elif idle is None:
                idle = time.monotonic()
                say(f"{running} runs are under way in other workers; are they alive?")
            elif time.monotonic() - idle > storage.GRACE + storage.HEARTBEAT:
                return  # whoever runs them is alive
            else:
                time.sleep(0.5)

    def _queue_grid(self) -> None:
        """Queue the grid's runs that are not finished, running or queued; failed ones again."""
        known = {run.name for _, run in self._trials(*LIVE)}
        failed = {run.name for _, run in self._trials()} - known
        for run in self._wanted:
            self._enqueue(run, skip_if_exists=run.name not in failed)

    def _enqueue(self, run: Run, skip_if_exists: bool = False, **attributes: Any) -> None:
        attributes |= {"settings": run.settings, "seed": run.seed}
        # Numbers tell the sampler of what was tried; the rest tells trials apart.
        params = attributes.pop("params", None) or {**run.settings, "seed": run.seed}
        self.study.enqueue_trial(params, attributes, skip_if_exists)

    def _objective(self, trial: Trial) -> tuple[float, float, float]:
        """One run, as Optuna calls it."""
        descriptor = None
        try:
            run = self._take(trial)
            descriptor = try_lock(self.out / run.name / ".claim")
            if descriptor is None:
                raise optuna.TrialPruned("a training outlived its worker")
            if record := trial.user_attrs.get("record"):  # its worker was lost in its last moment
                return self._finish(trial, record)
            begin = time.monotonic()
            say(f"{run.name}: begins; log: {self.out / run.name}")
            record = self.runner(run, descriptor)
            self._seconds.append(time.monotonic() - begin)
            return self._finish(trial, record)
        except StoppedError:
            attributes = {**trial.user_attrs, "params": trial.params}
            self._enqueue(run, **attributes)
            raise optuna.TrialPruned from None
        except RunFailedError as error:
            self._note_failure(f"{run.name}: {error}")
            raise
        except optuna.TrialPruned:
            raise
        except BaseException as error:  # which Optuna's threads may swallow
            self._errors.append(error)
            self._ended = True
            raise
        finally:
            if descriptor is not None:
                os.close(descriptor)
            if self._ended:
                self.study.stop()

    def _take(self, trial: Trial) -> Run:
        """The run of a trial.

        Raises:
            optuna.TrialPruned: there is nothing to do, or somebody else does it.
        """
        if self._stopped or self._ended:
            raise optuna.TrialPruned
        if "settings" not in trial.user_attrs:
            self._sample(trial)
        elif trial.user_attrs.get("sampled"):
            suggest(trial, self.method, self.plan.heads_total)
        run = self._run(trial)
        for other, known in self._trials(*LIVE):
            is_first = other.state == TrialState.COMPLETE or other.number < trial.number
            if known == run and is_first and other.number != trial.number:
                self._proposals += 1
                raise optuna.TrialPruned
        self._proposals = 0
        return run

    def _sample(self, trial: Trial) -> None:
        """Let the sampler choose a setting; the other seeds of a new one are queued."""
        if not self._may_sample():
            self.study.stop()
            raise optuna.TrialPruned
        settings = suggest(trial, self.method, self.plan.heads_total)
        first, *others = [Run(self.method, settings, seed) for seed in self.plan.seeds]
        known = {run.name for _, run in self._trials(*LIVE)}
        attributes = {"seed": first.seed, "sampled": True, "settings": settings}
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        if trial.number in self._sampled()[self.plan.samples :]:  # another worker was faster
            raise optuna.TrialPruned
        for run in others:
            if run.name not in known:
                self._enqueue(run, sampled=True, params=trial.params)

    # The end of a run.

    def _finish(self, trial: Trial, record: dict[str, Any]) -> tuple[float, float, float]:
        """Store a record, in the study first, then in results.jsonl."""
        values = (record["valid_bleu"], record["heads_kept"], record["total_sparsity"])
        try:
            trial.set_user_attr("record", record)
        except optuna.exceptions.UpdateFinishedTrialError:  # we were taken for dead
            attributes = {**trial.user_attrs, "record": record}
            state = {"state": TrialState.COMPLETE, "values": values, "user_attrs": attributes}
            self.study.add_trial(optuna.create_trial(**state))
        self.write_results()
        self._in_a_row = 0
        if self._seconds:
            say(f"{describe(record)}{self._left()}")
        return values

    def write_results(self) -> None:
        """Add to results.jsonl what the study has and the file lacks."""
        path = self.out / "results.jsonl"
        descriptor = try_lock(self.out / ".lock", wait=True)
        try:
            there = read_frontier([path]) if path.exists() and path.stat().st_size else []
            labels = {record.get("label") for record in there}
            for name, record in self.finished().items():
                if name not in labels:
                    append_line(path, record)
        finally:
            os.close(descriptor)

    def _note_failure(self, text: str) -> None:
        self.failed.append(text)
        self._in_a_row += 1
        self._ended = self._ended or self._in_a_row >= FAILURES_IN_A_ROW
        say(f"failed: {text}")

    def _stop(self, *_: Any) -> None:
        """SIGTERM, as a batch system sends it, ends a worker as Ctrl-C does."""
        self._stopped = self._ended = True
        self.runner.stop()

    # What is shown.

    def _left(self) -> str:
        """', done of total runs, about 1:20:00 left', from the mean time of the runs here."""
        done, total = self.done(), self.plan.total
        text = f"; {done} of {total} runs"
        if done >= total:
            return text
        at_once = max(len(self._trials(TrialState.RUNNING)), min(self.jobs, total - done), 1)
        mean = sum(self._seconds) / len(self._seconds)
        left = datetime.timedelta(seconds=round(max(1.0, (total - done) / at_once) * mean))
        return f"{text}, about {left} left"

    def _report(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt
        if self._errors:
            raise self._errors[0]
        done, total = self.done(), self.plan.total
        if self.failed:
            logs = f"its log is frontier.log in {self.out}/" + self.failed[-1].split(":")[0]
            refuse(f"{len(self.failed)} runs failed, the last is {self.failed[-1]} ({logs})")
        print(f"{done} of {total} runs are in {self.out / 'results.jsonl'}")
        if done < total and (running := len(self._trials(TrialState.RUNNING))):
            print(f"{running} are under way in other workers")
