"""A --user-dir of somebody's own, whose tasks and criterions prune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import USER_DIR, stack

from neuroprune_fairseq.files.models import load_model
from neuroprune_fairseq.method.sparsity import measure

THEIRS = """
from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

import neuroprune_fairseq


@dataclass
class MyConfig(TranslationConfig):
    greeting: str = field(default="", metadata={"help": "a flag of their own"})


@register_task("my_translation", dataclass=MyConfig)
class MyTranslationTask(TranslationTask):
    pass


@register_criterion("my_loss")
class MyLoss(CrossEntropyCriterion):  # legacy: without settings of its own
    @classmethod
    def build_criterion(cls, cfg, task):
        return cls(task, cfg.sentence_avg)


neuroprune_fairseq.prunable_task("my_translation")
neuroprune_fairseq.prunable_criterion("my_loss")
"""
FLAGS = [
    *("--task", "my_translation_neuroprune", "--greeting", "hello"),
    *("--criterion", "my_loss_neuroprune", "--attn-penalty-weight", "0.01"),
    *("--arch", "transformer", *stack("encoder", 1), *stack("decoder", 1)),
    *("--head-distance-threshold", "100", "--max-epoch", "1", "--optimizer", "adam"),
    *("--batch-size", "8", "--num-workers", "0", "--cpu", "--log-format", "none"),
]


@pytest.fixture
def their_dir(tmp_path):
    folder = tmp_path / "their_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text(THEIRS)
    return folder


def run(*arguments):
    """A program of fairseq's in a process of its own, in which our package can be found."""
    environment = {**os.environ, "PYTHONPATH": str(Path(USER_DIR).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_their_task_and_criterion_prune_with_their_user_dir_alone(data, their_dir, tmp_path):
    save = tmp_path / "run"
    run(
        "-m",
        "fairseq_cli.train",
        data / "pairs",
        "--user-dir",
        their_dir,
        "--save-dir",
        save,
        *FLAGS,
    )
    line = json.loads((save / "neuroprune.jsonl").read_text())
    assert line["heads_kept"] == 3 and line["r_attn"] > 0
    assert measure(load_model(save / "checkpoint_last.pt"))["heads_kept"] == 3


@pytest.mark.parametrize("ours_first", [True, False])
def test_two_user_dirs_add_up(their_dir, ours_first):
    folders = [USER_DIR, str(their_dir)] if ours_first else [str(their_dir), USER_DIR]
    code = f"""
from argparse import Namespace
from fairseq import tasks, utils
for folder in {folders!r}:
    utils.import_user_module(Namespace(user_dir=folder))
for name in ("translation", "my_translation"):
    print(f"{{name}}_neuroprune" in tasks.TASK_REGISTRY)
"""
    assert run("-c", code).split() == ["True", "True"]
