"""Takes runs from the queue until there are none, several at a time, and says how far it is."""

from __future__ import annotations

import datetime
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from tqdm import tqdm

from neuroprune_experiments.frontier.run_queue import HEARTBEAT, Queue, Taken
from neuroprune_experiments.frontier.runner import Run, RunFailedError, StoppedError
from neuroprune_fairseq.files.errors import refuse

# So many failures without a success in between are no accident of one setting.
FAILURES_IN_A_ROW = 3


class Runner(Protocol):
    """What trains and evaluates: runner.ScriptRunner, or a stand-in of it."""

    def __call__(self, run: Run, descriptor: int) -> dict[str, Any]:
        """Return the record of a run."""

    def stop(self) -> None:
        """End what is running."""


def describe(record: dict[str, Any]) -> str:
    """The outcome of a run on one line."""
    return (
        f"{record['label']}: BLEU {record['bleu']:.2f} (validation {record['valid_bleu']:.2f}), "
        f"{record['heads_kept']} of {record['heads_total']} heads, "
        f"sparsity {record['total_sparsity']:.3f}"
    )


class Worker:
    """``jobs`` threads on one queue; each waits for the scripts that it started."""

    def __init__(self, queue: Queue, runner: Runner, jobs: int) -> None:
        self.queue, self.runner, self.jobs = queue, runner, jobs
        self.failed: list[str] = []
        self._in_a_row = 0
        self._ended = threading.Event()  # nothing new is begun
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._bar: tqdm | None = None

    def work(self) -> None:
        """Do what there is to do.

        Raises:
            SystemExit: one line, when runs failed.
            KeyboardInterrupt: after what was running has been stopped.
        """
        self.queue.write_results()
        threads = [threading.Thread(target=self._guarded(self._loop)) for _ in range(self.jobs)]
        heart = threading.Thread(target=self._guarded(self._beat), daemon=True)
        bar_format = "{desc}: {n}/{total} |{bar}| {elapsed}{postfix}"
        with tqdm(
            total=self.queue.plan.total, desc="Runs", disable=None, bar_format=bar_format
        ) as self._bar:
            self._show()
            for thread in [heart, *threads]:
                thread.start()
            self._wait(threads)
        self._report()

    def _wait(self, threads: list[threading.Thread]) -> None:
        old = signal.signal(signal.SIGTERM, _interrupt)
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.2)
                threads = threads[1:] + threads[:1]
        except KeyboardInterrupt:
            self._ended.set()
            self.runner.stop()
            for thread in threads:
                thread.join()
            raise
        finally:
            self._ended.set()
            signal.signal(signal.SIGTERM, old)

    def _guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """An error in a thread ends all of them and is raised by the main thread."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # SystemExit too, which a thread would swallow
                self._errors.append(error)
                self._ended.set()

        return guarded

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            self.queue.beat()

    def _loop(self) -> None:
        while not self._ended.is_set():
            taken = self.queue.take()
            if taken is None:
                return
            self._say(f"{taken.run.name}: begins; log: {self.queue.out / taken.run.name}")
            self._do(taken)
            self._show()

    def _do(self, taken: Taken) -> None:
        try:
            record = self.runner(taken.run, taken.descriptor)
        except StoppedError:
            self.queue.fail(taken, "stopped", again=True)
        except RunFailedError as error:
            self.queue.fail(taken, str(error))
            self._note_failure(f"{taken.run.name}: {error}")
        except BaseException as error:
            self.queue.fail(taken, repr(error))
            raise
        else:
            self.queue.finish(taken, record)
            self._in_a_row = 0
            self._say(f"{describe(record)}{self._left()}")

    def _note_failure(self, text: str) -> None:
        with self._lock:
            self.failed.append(text)
            self._in_a_row += 1
            if self._in_a_row >= FAILURES_IN_A_ROW:
                self._ended.set()
        self._say(f"failed: {text}")

    # What is shown.

    def _say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def _left(self) -> str:
        """', done of total runs, about 1:20:00 left', from the mean time of finished runs."""
        done, total = self.queue.done(), self.queue.plan.total
        seconds = self.queue.seconds_per_run()
        text = f"; {done} of {total} runs"
        if seconds is None or done >= total:
            return text
        rounds = (total - done) / max(self.queue.running(), min(self.jobs, total - done))
        left = datetime.timedelta(seconds=round(max(1.0, rounds) * seconds))
        return f"{text}, about {left} left"

    def _show(self) -> None:
        with self._lock:
            self._bar.n = self.queue.done()
            self._bar.set_postfix_str(self._left().rpartition(", ")[2] if self._bar.n else "")

    def _report(self) -> None:
        if self._errors:
            raise self._errors[0]
        done, total = self.queue.done(), self.queue.plan.total
        if self.failed:
            logs = f"its log is frontier.log in {self.queue.out}/" + self.failed[-1].split(":")[0]
            refuse(f"{len(self.failed)} runs failed, the last is {self.failed[-1]} ({logs})")
        print(f"{done} of {total} runs are in {self.queue.out / 'results.jsonl'}")
        if done < total and self.queue.running():
            print(f"{self.queue.running()} are under way in other workers")


def _interrupt(*_: Any) -> None:
    """SIGTERM, as a batch system sends it, ends a worker as Ctrl-C does."""
    raise KeyboardInterrupt
