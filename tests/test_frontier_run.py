"""Studies with stand-ins for training: resuming, several workers, dead workers, refusals."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import optuna
import pytest
from test_frontier import refusal

from neuroprune_experiments.frontier import run_queue
from neuroprune_experiments.frontier.methods import parse_grid
from neuroprune_experiments.frontier.run_queue import Plan, Queue
from neuroprune_experiments.frontier.runner import Experiment, RunFailedError
from neuroprune_experiments.frontier.study import open_study
from neuroprune_experiments.frontier.worker import Worker

ROOT = Path(__file__).resolve().parent.parent
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
        self.ran.append(run.key)
        if run.settings.get("heads-to-keep") in self.fails:
            raise RunFailedError("no such thing")
        return record(run)

    def stop(self):
        pass


@pytest.fixture
def study(tmp_path):
    """Opens a new view of the study in the test's folder, as another process would."""

    def open_it(method="dsp", url=None, **facts):
        return open_study(experiment(tmp_path, method), {**FACTS, **facts}, url, "here")

    return open_it


@pytest.fixture
def queue(study, tmp_path):
    def make(grid="heads-to-keep=12,24,36", method="dsp", url=None, seeds=(1,), samples=0):
        settings = parse_grid(method, grid) if not samples else ()
        plan = Plan(seeds, settings, samples, heads_total=108)
        return Queue(study(method, url), method, tmp_path, plan)

    return make


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def work(queue, runner=None, jobs=1):
    runner = runner or StandIn()
    Worker(queue, runner, jobs).work()
    return runner


@pytest.mark.parametrize("database", [False, True])
def test_every_setting_and_seed_runs_once_and_a_second_start_runs_nothing(
    queue, tmp_path, database
):
    url = f"sqlite:///{tmp_path}/study.db" if database else None
    first = work(queue(url=url, seeds=(1, 2)))
    assert len(first.ran) == len(set(first.ran)) == 6
    assert work(queue(url=url, seeds=(1, 2))).ran == []
    found = {(line["settings"]["heads-to-keep"], line["seed"]) for line in results(tmp_path)}
    assert found == {(heads, seed) for heads in ("12", "24", "36") for seed in (1, 2)}
    assert len(results(tmp_path)) == 6


def test_a_larger_grid_runs_only_what_is_new(queue):
    work(queue())
    ran = work(queue("heads-to-keep=12,24.0,36,48")).ran
    assert [json.loads(key)[1] for key in ran] == [[["heads-to-keep", "48"]]]


def test_several_workers_of_several_threads_share_a_study_without_repeating(queue, tmp_path):
    grid = "heads-to-keep=" + ",".join(map(str, range(1, 13)))
    workers = [(queue(grid), StandIn(0.02)) for _ in range(3)]
    threads = [
        threading.Thread(target=drain, args=(Worker(one, runner, 1),))
        for one, runner in workers * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = [key for _, runner in workers for key in runner.ran]
    assert len(ran) == len(set(ran)) == 12
    assert len(results(tmp_path)) == 12


def drain(worker):
    """What one thread of a worker does, without its progress bar."""
    while taken := worker.queue.take():
        worker.queue.finish(taken, worker.runner(taken.run, taken.descriptor))


def test_two_jobs_do_all_runs(queue):
    assert len(work(queue(), StandIn(0.01), jobs=2).ran) == 3


def test_a_run_of_a_killed_worker_is_taken_again_at_once(queue, tmp_path):
    dead = queue().take()
    os.close(dead.descriptor)  # as the kernel does for a killed process
    assert dead.run.key in work(queue()).ran


def test_a_run_whose_training_outlived_its_worker_is_left_to_it(queue, tmp_path):
    dead = queue().take()  # its lock is still held, as by a child process
    assert dead.run.key not in work(queue()).ran
    assert len(results(tmp_path)) == 2
    os.close(dead.descriptor)
    assert work(queue()).ran == [dead.run.key]


def test_a_worker_on_another_machine_is_waited_for_until_it_gives_no_sign_of_life(queue):
    away = queue().take()
    away.trial.set_user_attr("host", "elsewhere:/somewhere")
    os.close(away.descriptor)
    assert away.run.key not in work(queue()).ran
    away.trial.set_user_attr("alive", time.time() - run_queue.GRACE - 1)
    assert work(queue()).ran == [away.run.key]


def test_signs_of_life_are_given_for_the_runs_of_this_process(queue):
    one = queue()
    taken = one.take()
    taken.trial.set_user_attr("alive", 0.0)
    one.beat()
    assert time.time() - one.study.trials[taken.trial.number].user_attrs["alive"] < 60


def test_a_worker_taken_for_dead_still_hands_in_its_record(queue, tmp_path):
    one = queue("heads-to-keep=12")
    taken = one.take()
    one.study.tell(taken.trial.number, state=optuna.trial.TrialState.FAIL)
    one.finish(taken, record(taken.run))
    assert len(results(tmp_path)) == 1
    assert work(queue("heads-to-keep=12")).ran == []


def test_a_line_that_a_kill_kept_from_the_file_is_added_at_the_next_start(queue, tmp_path):
    work(queue())
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text(lines[0])
    assert work(queue()).ran == []
    assert len(results(tmp_path)) == 3


def test_a_failed_run_is_named_the_others_go_on_and_it_is_tried_at_the_next_start(queue, tmp_path):
    said = refusal(work, queue(), StandIn(fails=("12",)))
    assert "1 runs failed, the last is dsp-heads12-s1: no such thing" in said
    assert len(results(tmp_path)) == 2
    assert len(work(queue()).ran) == 1


def test_three_failures_in_a_row_end_a_worker(queue):
    runner = StandIn(fails=("1", "2", "3", "4", "5"))
    assert "3 runs failed" in refusal(work, queue("heads-to-keep=1,2,3,4,5"), runner)
    assert len(runner.ran) == 3


def test_the_sampler_tries_so_many_different_settings_with_every_seed(queue, tmp_path):
    work(queue(samples=5, seeds=(1, 2)))
    found = [(json.dumps(line["settings"]), line["seed"]) for line in results(tmp_path)]
    assert len(found) == len(set(found)) == 10
    assert len({settings for settings, _ in found}) == 5
    assert work(queue(samples=5, seeds=(1, 2))).ran == []
    assert len(work(queue(samples=12)).ran) == 7  # past its random start, and beside a grid


def test_the_sampler_stays_in_the_range_of_every_method_and_after_a_grid(queue, tmp_path):
    work(queue("attn-penalty-weight=0.01", method="neuroprune"))
    work(queue(method="neuroprune", samples=10))
    sampled = [line["settings"] for line in results(tmp_path)][1:]
    assert len(sampled) == 10
    for settings in sampled:
        assert 1e-4 <= float(settings["attn-penalty-weight"]) <= 0.5
        assert 0.1 <= float(settings["head-distance-threshold"]) <= 0.4


def test_sampling_ends_when_there_is_nothing_new(study, tmp_path):
    for method, most in (("dsp", 4), ("michel", 4)):
        plan = Plan((1,), (), 50, heads_total=most)
        assert len(set(work(Queue(study(method), method, tmp_path, plan)).ran)) <= most


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
    assert "--storage cannot be opened" in refusal(study, url=url)


def test_half_a_line_that_a_full_disk_left_in_the_journal_is_cut(queue, tmp_path):
    work(queue("heads-to-keep=12"))
    with (tmp_path / "study.journal").open("a") as journal:
        journal.write('{"op_code": 4, "half')
    assert len(work(queue()).ran) == 2
    assert work(queue()).ran == []


def test_a_damaged_journal_is_refused(study, tmp_path):
    study()
    journal = tmp_path / "study.journal"
    journal.write_text("not json\n" + journal.read_text())
    assert "damaged" in refusal(study)
