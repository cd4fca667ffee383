"""For test_docs.py: the commands that pages show, each parsed and none run."""

from __future__ import annotations

import argparse
import ast
import functools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest import mock

from conftest import USER_DIR
from fairseq import options
from fairseq.tasks import TASK_REGISTRY

ROOT = Path(__file__).resolve().parent.parent
FLAG = re.compile(r"--[a-z][\w-]*")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
# Inline code that is a whole command.
_BEGINNINGS = r"bash scripts/|python (?:benchmarks|data-prep)/[^\s`]+ |neuroprune-\w+ |fairseq-\w+ "
INLINE = re.compile(f"`((?:{_BEGINNINGS})[^`]*)`")
# Nothing is passed on by these: what matters is that the files exist that they name.
PLAIN = {"pytest", "cp", "twine", "sbatch"}
# What fairseq asks for in every run, beside the flags that a recipe passes on.
RUN = "DATA --arch transformer_18x6_tiny --optimizer adam --task translation_neuroprune"
RUN += " --criterion label_smoothed_cross_entropy_neuroprune"


class ParsedError(Exception):
    """The command line is right; what would follow is left out."""


def commands_in(markdown: str) -> Iterator[str]:
    """Every command of a page, with the values of its shell variables."""
    variables: dict[str, str] = {}
    blocks = [text for language, text in BLOCK.findall(markdown) if language == "bash"]
    lines = [line for text in blocks for line in text.replace("\\\n", " ").splitlines()]
    for line in [*lines, *INLINE.findall(BLOCK.sub("", markdown))]:
        for part in re.split(r"; (?:do\b ?)?", line.strip()):
            part = part.replace("$(neuroprune-user-dir)", USER_DIR)
            part = re.sub(r"\$(\w+)", lambda found: variables[found[1]], part)
            if loop := re.match(r"for (\w+) in (\S+)", part):
                variables[loop[1]] = loop[2]
            elif assignment := re.fullmatch(r"(\w+)=(\S+)", part):
                variables[assignment[1]] = assignment[2]
            elif part.removeprefix("done") and not part.startswith("#"):
                yield part


def python_in(markdown: str) -> list[str]:
    """The Python of a page."""
    return [text for language, text in BLOCK.findall(markdown) if language == "python"]


def run_python(page: str, name: str) -> ModuleType:
    """Run the first Python of a page as a module of this name."""
    module = ModuleType(name)
    source = python_in((ROOT / page).read_text(encoding="utf-8"))[0]
    with mock.patch.dict(sys.modules, {name: module}):  # dataclasses look it up
        exec(compile(source, page, "exec"), vars(module))
    return module


def parse(command: str) -> None:
    """Parse a command.

    Raises:
        AssertionError, SystemExit: something about it is wrong.
    """
    words = shlex.split(command, comments=True)
    while "=" in words[0]:  # a variable of the environment
        words.pop(0)
    for word in words:
        if re.match(r"(tests|scripts|benchmarks|data-prep|results)/[\w/-]+\.\w+$", word):
            assert (ROOT / word).exists(), f"{word} does not exist"
    _parser_of(words[0])(words)


def _parser_of(program: str) -> Callable[[list[str]], None]:
    if program in PLAIN:
        return lambda words: _sbatch(words) if program == "sbatch" else None
    known = {"fairseq-train": _train, "fairseq-generate": _generate, "make": _make, "pip": _pip}
    known |= {"bash": _script, "python": _python, "fairseq-eval-lm": _evaluate_lm}
    return known.get(program, _console_script)


def _train(words: list[str]) -> None:
    if "my_plugin" in words:
        if "my_translation" not in TASK_REGISTRY:
            run_python("docs/adding-a-task.md", "my_plugin")
        words = [USER_DIR if word == "my_plugin" else word for word in words]
    options.parse_args_and_arch(options.get_training_parser(), words[1:])


def _generate(words: list[str]) -> None:
    options.parse_args_and_arch(options.get_generation_parser(), words[1:])


def _evaluate_lm(words: list[str]) -> None:
    options.parse_args_and_arch(options.get_eval_lm_parser(), words[1:])


def _make(words: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(words[1:]) <= {*targets}


def _pip(words: list[str]) -> None:
    """Extras must exist."""
    setup = ast.parse((ROOT / "setup.py").read_text())
    keywords = [node for node in ast.walk(setup) if isinstance(node, ast.keyword)]
    [extras] = [node.value for node in keywords if node.arg == "extras_require"]
    names = {key.value for key in extras.keys}
    for word in words[1:]:
        if named := re.fullmatch(r"\.\[(.+)\]", word):
            assert set(named[1].split(",")) <= names, word


@functools.cache
def _help_of(script: str) -> str:
    environment = {"NEUROPRUNE_PYTHON": sys.executable, **os.environ}
    command = ["bash", str(ROOT / script), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _script(words: list[str]) -> None:
    """Its help must name every flag; the others must be fairseq's, if it passes them on."""
    script, given = words[1], words[2:]
    if script == "scripts/prepare.sh" and "--corpus" in given:
        place = given.index("--corpus")
        corpus, rest = given[place + 1], given[:place] + given[place + 2 :]
        return _python(["python", f"data-prep/{corpus}.py", *rest])
    text = " ".join(_help_of(script).split())
    passed_on: list[str] = []
    ours = True
    for word in given:
        if FLAG.match(word):
            ours = word.partition("=")[0] in FLAG.findall(text)
        if not ours:
            passed_on.append(word)
    if "passed on to fairseq-train" in text:
        _train(["fairseq-train", *RUN.split(), *passed_on])
    elif "passed on to fairseq-generate" in text:
        _generate(["fairseq-generate", "DATA", "--path", "PATH", *passed_on])
    else:
        assert not passed_on, f"{script} knows no {passed_on[0]}"


def _sbatch(words: list[str]) -> None:
    if words[1] == "scripts/train.sbatch":
        return _script(["bash", f"scripts/{words[2]}.sh", *words[3:]])
    return _console_script(["neuroprune-frontier", "run", *words[2:]])


def _until_parsed(run: Callable[[], object]) -> None:
    """Run a program until it has read its command line."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, *args, **kwargs):
        original(parser, *args, **kwargs)
        raise ParsedError

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        try:
            run()
        except ParsedError:
            return
        except SystemExit as left:
            assert left.code in (None, 0), left.code  # --help
            return
    raise AssertionError("it never read its command line")


def _python(words: list[str]) -> None:
    if words[1] == "-m":
        return
    program = ROOT / words[1]
    with mock.patch.object(sys, "argv", words[1:]), mock.patch.object(sys, "path", [*sys.path]):
        sys.path.insert(0, str(program.parent))
        _until_parsed(lambda: runpy.run_path(str(program), run_name="__main__"))


def _console_script(words: list[str]) -> None:
    scripts = re.findall(r'"([\w-]+) = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    entries = {name: (module, function) for name, module, function in scripts}
    assert words[0] in entries, f"{words[0]} is no command"
    module, function = entries[words[0]]
    _until_parsed(lambda: getattr(import_module(module), function)(words[1:]))
