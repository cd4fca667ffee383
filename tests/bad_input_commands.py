"""For test_bad_input.py: every command, in this process; the shell scripts in their own."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import TRAIN_FLAGS
from fairseq import checkpoint_utils, options
from fairseq.logging import metrics
from fairseq_cli import train

from neuroprune_experiments import evaluate, evaluation, table
from neuroprune_experiments.distill import command as distill
from neuroprune_experiments.frontier import command as frontier
from neuroprune_experiments.report import command as report
from neuroprune_fairseq.cli import compact as compact
from neuroprune_fairseq.cli import export as export
from neuroprune_fairseq.cli import profile as profile
from neuroprune_fairseq.cli import user_dir as cli

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "data-prep"), str(ROOT / "benchmarks")]

import bleu_and_speed  # noqa: E402
import iwslt14  # noqa: E402
import multi30k  # noqa: E402
import text  # noqa: E402
import toy  # noqa: E402

SMALL = ["--encoder-layers", "1", "--decoder-layers", "1"]


def run_train(arguments: list[str]) -> None:
    for state in (checkpoint_utils.save_checkpoint, train.should_stop_early):
        vars(state).clear()  # fairseq keeps the best loss of a run on the function
    metrics.reset()
    given = [word.partition("=")[0] for word in arguments]
    defaults = {
        "--task": "translation_neuroprune",
        "--criterion": "label_smoothed_cross_entropy_neuroprune",
    }
    flags = [
        word for flag, value in defaults.items() if flag not in given for word in (flag, value)
    ]
    plain = TRAIN_FLAGS[:2] + TRAIN_FLAGS[5:] if "--arch" in given else [*TRAIN_FLAGS, *SMALL]
    if "label_smoothed" not in " ".join(arguments + flags):
        place = plain.index("--label-smoothing")
        plain = plain[:place] + plain[place + 2 :]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, [*arguments[:1], *plain, *flags, *arguments[1:]])
    args.tpu = "--tpu" in arguments  # fairseq takes --bf16 to mean a TPU
    train.main(args)


def _program(name: str):
    def run(arguments: list[str]) -> None:
        old, sys.argv = sys.argv, [name, *arguments]
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        finally:
            sys.argv = old

    return run


def _generate(checkpoint, data, settings, output, sentences) -> None:
    """Stands in for fairseq-generate, which takes seconds to start."""
    lines = [f"H-{number}\t-1\ta b c\n" for number in range(sentences)]
    speed = "Translated 20 sentences (60 tokens) in 1.0s (20.0 sentences/s, 60.0 tokens/s)"
    output.write_text("".join(lines) + speed)


def _evaluate(arguments: list[str]) -> None:
    generate, evaluation.generate = evaluation.generate, _generate
    try:
        evaluate.main(arguments)
    finally:
        evaluation.generate = generate


def _script(name: str):
    def run(arguments: list[str]) -> None:
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / f"{name}.sh"), *arguments],
            env={"NEUROPRUNE_PYTHON": sys.executable, **os.environ},
            capture_output=True,
            text=True,
            check=False,
            restore_signals=False,  # a full disk sends no signal, a limit does
        )
        print(done.stdout)
        print(done.stderr, end="", file=sys.stderr)
        sys.exit(done.returncode)

    return run


SCRIPTS = "prepare pretrain finetune_targets finetune_neuroprune finetune_baseline".split()
SCRIPTS += ["evaluate", "distill", "quickstart"]
COMMANDS = {
    **{"fairseq-train": run_train, "compact": compact.main, "export": export.main},
    **{"frontier": frontier.main, "user-dir": cli.user_dir, "evaluate": _evaluate},
    **{"neuroprune-report": report.main, "profile": profile.main},
    **{"bleu_and_speed": bleu_and_speed.main, "distill": distill.main},
    **{"table": table.main, "model_flags": _program("model_flags.py")},
    **{f"{name}.sh": _script(name) for name in SCRIPTS},
}
PREPARATIONS = {"text": text.main, "toy": toy.main, "multi30k": multi30k.main}
PREPARATIONS["iwslt14"] = iwslt14.main
COMMANDS |= {
    name: lambda words, main=main: sys.exit(main(words)) for name, main in PREPARATIONS.items()
}


@contextlib.contextmanager
def limited_disk(size: int | None):
    """No file may grow beyond so many bytes, as on a full disk.

    Python 3.11 would keep compiled modules that are cut at the limit, for every later process. And
    where the tests' own output goes to a file, the log would complain that it cannot grow.
    """
    old, writes = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    complains = logging.raiseExceptions
    logging.raiseExceptions = complains and size is None
    sys.dont_write_bytecode = sys.dont_write_bytecode or size is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, old if size is None else (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        sys.dont_write_bytecode = writes
        logging.raiseExceptions = complains


def outcome(command: str, arguments: str, disk: int | None) -> tuple[bool, str]:
    """Run a command.

    Returns:
        Whether it failed, and what Python prints when it leaves.
    """
    with limited_disk(disk):
        try:
            COMMANDS[command](shlex.split(arguments))
        except SystemExit as left:
            said = left.code if isinstance(left.code, str) else ""
            return left.code not in (None, 0), said
    return False, ""
