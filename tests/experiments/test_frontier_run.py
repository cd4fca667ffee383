"""Studies with stand-ins for training: resuming, several workers, dead workers, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy
from optuna.storages import fail_stale_trials
from optuna.trial import Trial, TrialState
from test_frontier import refusal

from neuroprune_experiments.frontier import storage
from neuroprune_experiments.frontier.methods import Plan, Run, parse_grid
from neuroprune_experiments.frontier.runner import Experiment, RunFailedError, try_lock
from neuroprune_experiments.frontier.storage import open_study
from neuroprune_experiments.frontier.sweep import Sweep

ROOT = Path(__file__).resolve().parents[2]
FACTS = {
    **{"architecture": "--arch a", "checkpoint": "c", "corpus": "d", "tolerance": 0.001},
    **{"epochs": 2, "flags": ""},
}


def experiment(out, method="dsp", **changes):
    settings = {
        **{"method": method, "data": Path("data"), "pretrained": Path("p.pt"), "out": out},
        **{"epochs": 2, "tolerance": 0.001, "flags": (), "scripts": ROOT / "scripts"},
    }
    return Experiment(**{**settings, **changes})


def record(run):
    """A record whose numbers follow from the setting."""
    heads = int(run.settings.get("heads-to-keep", 50))
    return {
        **{"label": run.name, "method": run.method, "settings": run.settings, "seed": run.seed},
        **{"bleu": 20 + heads / 10, "valid_bleu": 21 + heads / 10, "heads_kept": heads},
        **{"heads_total": 108, "total_sparsity": 1 - heads / 108, "epochs": 2},
    }


class StandIn:
    """Notes its runs in place of training them."""

    def __init__(self, seconds=0.0, fails=()):
        self.ran, self.seconds, self.fails = [], seconds, fails

    def __call__(self, run, descriptor):
        time.sleep(self.seconds)
        self.ran.append(run.name)
        if run.settings.get("heads-to-keep") in self.fails:
            raise RunFailedError("no such thing")
        return record(run)

    def stop(self):
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Whoever gives no sign of life for four seconds is dead."""
    monkeypatch.setattr(storage, "HEARTBEAT", 1)
    monkeypatch.setattr(storage, "GRACE", 4)


@pytest.fixture
def study(tmp_path):
    """Opens a new view of the study in the test's folder, as another process would."""

    def open_it(method="dsp", url=None, **facts):
        return open_study(experiment(tmp_path, method), {**FACTS, **facts}, url, "here")

    return open_it


@pytest.fixture
def sweep(study, tmp_path):
    def make(
        grid="heads-to-keep=12,24,36",
        method="dsp",
        url=None,
        seeds=(1,),
        samples=0,
        runner=None,
        jobs=1,
        out=tmp_path,
    ):
        settings = parse_grid(method, grid) if not samples else ()
        plan = Plan(seeds, settings, samples, heads_total=108)
        return Sweep(study(method, url), method, out, plan, runner or StandIn(), jobs)

    return make


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def work(one):
    """Works; returns the names of what was run."""
    one.work()
    return one.runner.ran


def kill(one):
    """A worker that was killed: it has taken its first run, and gave signs of life until now."""
    one._queue_grid()
    trial = one.study.ask()
    one.study._storage.record_heartbeat(trial._trial_id)
    return Run(one.method, trial.user_attrs["settings"], trial.user_attrs["seed"])


def test_every_setting_and_seed_runs_once_and_a_second_start_runs_nothing(sweep, tmp_path):
    for url in (None, f"sqlite:///{tmp_path}/named.db"):
        (tmp_path / "results.jsonl").unlink(missing_ok=True)
        ran = work(sweep(url=url, seeds=(1, 2)))
        assert len(ran) == len(set(ran)) == 6
        assert work(sweep(url=url, seeds=(1, 2))) == []
        found = {(line["settings"]["heads-to-keep"], line["seed"]) for line in results(tmp_path)}
        assert found == {(heads, seed) for heads in ("12", "24", "36") for seed in (1, 2)}
        assert len(results(tmp_path)) == 6


def test_a_larger_grid_runs_only_what_is_new(sweep):
    work(sweep())
    assert work(sweep("heads-to-keep=12,24.0,36,48")) == ["dsp-heads48-s1"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_several_workers_share_a_study_without_repeating(sweep, tmp_path, jobs):
    grid = "heads-to-keep=" + ",".join(map(str, range(1, 13)))
    workers = [sweep(grid, runner=StandIn(0.02), jobs=jobs) for _ in range(3)]
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = [name for worker in workers for name in worker.runner.ran]
    assert len(ran) == len(set(ran)) == 12
    assert len(results(tmp_path)) == 12


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_frontier_run as t
out, url = Path(sys.argv[1]), sys.argv[2]
t.storage.HEARTBEAT, t.storage.GRACE = 1, 4
out.mkdir()
grid = [{{"heads-to-keep": str(heads)}} for heads in range(1, 10)]
study = t.open_study(t.experiment(out), t.FACTS, url, "all")
worker = t.Sweep(study, "dsp", out, t.Plan((1,), grid), t.StandIn(0.05))
worker.work()
print(*worker.runner.ran)
"""


def test_three_workers_that_start_at_once_on_a_new_database_share_it(tmp_path):
    """Each has a folder of its own; the results of all are in each of them."""
    code, url = WORKER.format(tests=str(Path(__file__).parent)), f"sqlite:///{tmp_path}/new.db"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / f"out{number}", url],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
            env=environment,
        )
        for number in range(3)
    ]
    said = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], said
    ran = [name for output, _ in said for name in output.splitlines()[-1].split() if "-s1" in name]
    assert len(ran) == len(set(ran)) == 9
    for number in range(3):
        assert len(results(tmp_path / f"out{number}")) == 9


def test_a_run_of_a_killed_worker_is_taken_again(sweep):
    dead = kill(sweep())
    assert work(sweep()) == ["dsp-heads24-s1", "dsp-heads36-s1", dead.name]


def test_a_run_that_was_taken_in_the_moment_of_the_kill_is_taken_again(sweep):
    one = sweep("heads-to-keep=12")
    one._queue_grid()
    one.study.ask()  # no sign of life at all
    assert work(sweep("heads-to-keep=12")) == ["dsp-heads12-s1"]


def test_a_run_whose_training_outlived_its_worker_is_left_to_it(sweep, tmp_path):
    dead = kill(sweep())
    descriptor = try_lock(tmp_path / dead.name / ".claim")  # as a child process holds it
    assert dead.name not in work(sweep())
    assert len(results(tmp_path)) == 2
    os.close(descriptor)
    assert work(sweep()) == [dead.name]


def shift_heartbeats(one, hours):
    with one.study._storage._backend.engine.begin() as connection:
        text = f"UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '{hours} hours')"
        connection.execute(sqlalchemy.text(text))


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_worker_with_a_wrong_clock_takes_no_run_that_is_under_way(sweep, hours):
    """Heartbeats hours ago are what it sees of the others when its own clock is ahead."""
    one, other = sweep("heads-to-keep=12"), sweep("heads-to-keep=12")
    kill(one)
    shift_heartbeats(one, hours)
    fail_stale_trials(other.study)
    assert [trial.state for trial in other.study.trials] == [TrialState.RUNNING]
    time.sleep(storage.GRACE + 0.2)
    shift_heartbeats(one, 1)  # it is alive
    fail_stale_trials(other.study)
    assert [trial.state for trial in other.study.trials] == [TrialState.RUNNING]
    assert other.study.user_attrs == one.study.user_attrs
    time.sleep(storage.GRACE + 0.2)
    fail_stale_trials(other.study)  # now it stood still
    assert [t.state for t in other.study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_worker_that_was_lost_after_its_record_was_stored_has_finished_its_run(sweep, tmp_path):
    one = sweep("heads-to-keep=12")
    run = kill(one)
    Trial(one.study, one.study.trials[0]._trial_id).set_user_attr("record", record(run))
    assert work(sweep("heads-to-keep=12")) == []
    assert len(results(tmp_path)) == 1
    assert [trial.state for trial in one.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_worker_taken_for_dead_still_hands_in_its_record(sweep, tmp_path):
    one = sweep("heads-to-keep=12")

    class Slept(StandIn):
        def __call__(self, run, descriptor):
            one.study.tell(0, state=TrialState.FAIL)
            return super().__call__(run, descriptor)

    one.runner = Slept()
    assert work(one) == ["dsp-heads12-s1"]
    assert len(results(tmp_path)) == 1
    assert work(sweep("heads-to-keep=12")) == []


def test_of_two_trials_of_one_run_the_first_counts(sweep):
    """Workers that start in the same moment may both queue a run."""
    one = sweep()
    for _ in range(2):
        for run in one._wanted:
            one._enqueue(run)
    assert len(work(one)) == 3


def test_a_line_that_a_kill_kept_from_the_file_is_added_at_the_next_start(sweep, tmp_path):
    work(sweep())
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text(lines[0])
    assert work(sweep()) == []
    assert len(results(tmp_path)) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_run_is_named_the_others_go_on_and_it_is_tried_at_the_next_start(
    sweep, tmp_path, jobs
):
    said = refusal(sweep(runner=StandIn(fails=("12",)), jobs=jobs).work)
    assert "1 runs failed, the last is dsp-heads12-s1: no such thing" in said
    assert len(results(tmp_path)) == 2
    assert len(work(sweep())) == 1


def test_three_failures_in_a_row_end_a_worker(sweep):
    one = sweep("heads-to-keep=1,2,3,4,5", runner=StandIn(fails=("1", "2", "3", "4", "5")))
    assert "3 runs failed" in refusal(one.work)
    assert len(one.runner.ran) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_our_own_in_a_run_is_raised(sweep, jobs):
    class Broken(StandIn):
        def __call__(self, run, descriptor):
            raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        work(sweep(runner=Broken(), jobs=jobs))


def test_the_sampler_tries_so_many_different_settings_with_every_seed(sweep, tmp_path):
    work(sweep(samples=5, seeds=(1, 2)))
    found = [(json.dumps(line["settings"]), line["seed"]) for line in results(tmp_path)]
    assert len(found) == len(set(found)) == 10
    assert len({settings for settings, _ in found}) == 5
    assert work(sweep(samples=5, seeds=(1, 2))) == []
    assert len(work(sweep(samples=12))) == 7  # past its random start, and beside a grid


def test_a_sampled_run_of_a_killed_worker_is_taken_again(sweep, tmp_path):
    one = sweep(samples=2)
    trial = one.study.ask()
    one._take(trial)
    ran = work(sweep(samples=2))
    assert len(ran) == 2 and Run("dsp", trial.user_attrs["settings"], 1).name in ran


def test_the_sampler_stays_in_the_range_of_every_method_and_after_a_grid(sweep, tmp_path):
    work(sweep("attn-penalty-weight=0.01", method="neuroprune"))
    work(sweep(method="neuroprune", samples=10))
    sampled = [line["settings"] for line in results(tmp_path)][1:]
    assert len(sampled) == 10
    for settings in sampled:
        assert 1e-4 <= float(settings["attn-penalty-weight"]) <= 0.5
        assert 0.1 <= float(settings["head-distance-threshold"]) <= 0.4


def test_sampling_ends_when_there_is_nothing_new(study, tmp_path):
    for method, most in (("dsp", 4), ("michel", 4)):
        plan = Plan((1,), (), 50, heads_total=most)
        ran = work(Sweep(study(method), method, tmp_path, plan, StandIn()))
        assert len(set(ran)) == len(ran) <= most


# What the runs of a study have in common.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "--arch b"}, "--pretrained has the architecture --arch b, but earlier"),
        ({"checkpoint": "e"}, "--pretrained is another checkpoint"),
        ({"corpus": "e"}, "--data is another corpus"),
        ({"tolerance": 0.0}, "--tolerance is 0.0"),
        ({"epochs": 3}, "--epochs is 3"),
        ({"flags": "--lr 1"}, "the further flags are '--lr 1'"),
    ],
)
def test_a_study_refuses_what_cannot_be_compared_with_its_earlier_runs(study, changes, message):
    study()
    said = refusal(study, **changes)
    assert message in said
    assert "name another --out" in said


def test_other_methods_may_differ_in_epochs_and_flags_only(study):
    study()
    study("michel", epochs=3, flags="--lr 1")
    assert "another architecture" not in refusal(study, "l1", architecture="--arch b")


@pytest.mark.parametrize("url", ["nonsense", "postgresql+no://x/y", "sqlite:////no/such/x.db"])
def test_a_storage_that_cannot_be_opened_is_refused(study, url):
    assert "--storage cannot be opened; name a database" in refusal(study, url=url)


MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true")


@pytest.mark.parametrize("url", [*MEMORY, ":memory:"])
def test_a_storage_in_memory_is_refused(study, url):
    said = refusal(study, url=url)
    assert "--storage" in said and "sqlite:////PATH/study.db" in said


def test_a_damaged_database_is_refused(study, tmp_path):
    study()
    (tmp_path / "study.db").write_bytes(b"not a database" * 100)
    assert "study.db is damaged" in refusal(study)
