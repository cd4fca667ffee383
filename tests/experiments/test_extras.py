"""What the extra 'experiments' brings is needed by nothing else, and missed in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ("optuna", "matplotlib", "jinja2")
# As if these were not installed.
WITHOUT = f"""
import sys
for name in {EXTRA}:
    sys.modules[name] = None
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Finder())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {EXTRA} else find_spec(name, *more)
"""


def run(code):
    """Runs a program in a Python without the extra's packages."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **{"capture_output": True, "text": True, "check": False},
    )


def modules():
    for path in sorted((ROOT / "neuroprune_fairseq").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_plugin_and_its_commands_need_none_of_the_extra():
    pytest.importorskip("ctranslate2")
    names = [*modules()]
    assert "neuroprune_fairseq.cli.compact" in names and "neuroprune_fairseq.plugin.task" in names
    done = run(f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "missing"),
    [
        ("frontier", ["table", "r.jsonl"], "optuna, matplotlib"),
        ("report", ["--results", "r.jsonl", "--out", "o"], "jinja2, matplotlib"),
    ],
)
def test_a_command_of_the_experiments_says_what_to_install(command, arguments, missing):
    where = f"neuroprune_experiments.{command}.command"
    done = run(f"from {where} import main\nmain({arguments})")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "Please install tensorboardX" not in line]
    assert lines == [
        f"neuroprune_fairseq: error: {missing} is not installed: pip install "
        "'neuroprune_fairseq[experiments]'"
    ]


def test_installing_the_plugin_pulls_none_of_the_extra():
    text = (ROOT / "setup.py").read_text()
    required = text[text.index("install_requires") : text.index("extras_require")]
    assert "torch" in required
    assert not re.search("|".join(EXTRA), required)
