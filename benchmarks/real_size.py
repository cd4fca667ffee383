r"""What pruning costs at the size that people have: 312.8 M parameters, as WMT's big models.

Every step runs in a process of its own, in one thread: seconds are processor time, memory is the
peak of the resident set while the step runs, beyond what was there before it; for commands it is
the peak of the whole process, over the size of the file that they read. Example::

    python benchmarks/real_size.py --output results/real-size.json

--scale 16 makes a model a sixteenth as wide, to see that all runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import nn

from neuroprune_experiments.evaluation import surroundings
from neuroprune_fairseq.files.atomic import replacing
from neuroprune_fairseq.files.errors import OneLineParser
from neuroprune_fairseq.method.importance import WeightImportance
from neuroprune_fairseq.method.penalties import attention_penalty, mlp_penalty
from neuroprune_fairseq.method.pruning import (
    eliminate_redundant_heads,
    zero_heads_,
    zero_neurons_,
)
from neuroprune_fairseq.method.weight_selection import sparsify_
from neuroprune_fairseq.method.zero_mask import ZeroMask
from neuroprune_fairseq.structure import attention_blocks, mlp_blocks

VOCABULARY = 42020
COMMANDS = {
    "compact": ["neuroprune_fairseq.cli.compact", "model.pt", "compact.pt"],
    "export": ["neuroprune_fairseq.cli.export", "model.pt", "engine", "--data", "data"],
    "report": ["neuroprune_experiments.report.command", "model.pt", "--out", "report"],
}


def make_data(folder: Path, vocabulary: int) -> None:
    """A folder with dictionaries and a few random sentences, as fairseq-preprocess makes it."""
    draw = torch.Generator().manual_seed(1)
    for language in ("de", "en"):
        words = Dictionary()
        for number in range(vocabulary - words.nspecial):
            words.add_symbol(f"w{number}")
        (folder / "data").mkdir(exist_ok=True)
        words.save(str(folder / "data" / f"dict.{language}.txt"))
        numbers = torch.randint(vocabulary - 4, (4, 12), generator=draw).tolist()
        lines = "".join(" ".join(f"w{n}" for n in line) + "\n" for line in numbers)
        (folder / f"test.{language}").write_text(lines, encoding="utf-8")
    flags = ["-s", "de", "-t", "en", "--testpref", "test", "--destdir", "data"]
    for language in ("src", "tgt"):
        name = {"src": "de", "tgt": "en"}[language]
        flags += [f"--{language}dict", f"data/dict.{name}.txt"]
    arguments = [sys.executable, "-m", "fairseq_cli.preprocess", *flags]
    kept = {f: (folder / "data" / f).read_bytes() for f in ("dict.de.txt", "dict.en.txt")}
    for name, content in kept.items():  # it does not overwrite dictionaries
        (folder / name).write_bytes(content)
        (folder / "data" / name).unlink()
    arguments = [word.replace("data/dict", "dict") for word in arguments]
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)


def build(folder: Path, scale: int) -> tuple[Any, nn.Module]:
    """The settings of a training and its model, with random weights."""
    width, arguments = 1024 // scale, [str(folder / "data"), "--task", "translation_neuroprune"]
    arguments += ["--arch", "transformer_wmt_en_de_big", "--share-decoder-input-output-embed"]
    for side, ffn in (("encoder", 8192), ("decoder", 4096)):
        arguments += [f"--{side}-embed-dim", str(width)]
        arguments += [f"--{side}-ffn-embed-dim", str(ffn // scale)]
    arguments += ["--criterion", "label_smoothed_cross_entropy_neuroprune", "--seed", "1"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    cfg = convert_namespace_to_omegaconf(parsed)
    torch.manual_seed(1)
    return cfg, tasks.setup_task(cfg.task).build_model(cfg.model)


@torch.no_grad()
def prune_(model: nn.Module) -> None:
    """Half of the heads and half of the neurons go, in place."""
    for block in attention_blocks(model):
        zero_heads_(block, torch.arange(0, block.num_heads, 2))
    for mlp in mlp_blocks(model):
        zero_neurons_(mlp, torch.arange(0, mlp.fc1.out_features, 2))


def save(cfg: Any, model: nn.Module, path: Path) -> None:
    """A checkpoint as fairseq publishes them: weights and settings."""
    settings = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    state = {"args": None, "cfg": settings, "model": model.state_dict(), "extra_state": {}}
    torch.save({**state, "optimizer_history": [], "last_optimizer_state": None}, path)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def watched(act: Callable[[], Any]) -> dict[str, float]:
    """Processor seconds of this thread's process, and what memory it took at most, in GiB."""
    before, peak, ends = resident(), [0], threading.Event()

    def watch() -> None:
        while not ends.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.thread_time()
    act()
    seconds = time.thread_time() - start
    ends.set()
    watcher.join()
    extra = max(peak[0], resident()) - before
    return {"seconds": round(seconds, 2), "extra_gib": round(max(0, extra) / 2**30, 2)}


def touch(model: nn.Module) -> None:
    """Read all that is there: a system may have taken idle memory away, which is no step's cost."""
    for parameter in model.parameters():
        parameter.detach().sum()
        parameter.grad.sum()


def steps(model: nn.Module) -> dict[str, Callable[[], Any]]:
    """What a training does beside fairseq's own work; each is made ready here."""
    importance = WeightImportance()

    def penalties() -> None:
        total = attention_penalty(attention_blocks(model)) + mlp_penalty(mlp_blocks(model), 1e-4)
        total.backward()

    def make_zeros() -> None:
        sparsify_(model, "total", 0.5, importance.scores(model))

    def hold_zeros() -> None:
        ZeroMask(model, every_weight=True).hold_()

    return {
        "penalties": penalties,
        "importance, first update": lambda: importance.update(model),
        "importance": lambda: importance.update(model),
        "making zeros": make_zeros,
        "holding zeros, set up": hold_zeros,
        "end of epoch": lambda: eliminate_redundant_heads(model, 0.01),
    }


def measure_steps(folder: Path, scale: int) -> dict[str, Any]:
    """All steps of a training, once each, in one process."""
    _, model = build(folder, scale)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    measured: dict[str, Any] = {}
    for name, act in steps(model).items():
        touch(model)
        measured[name] = watched(act)
    mask = ZeroMask(model, every_weight=True)
    touch(model)
    measured["holding zeros"] = watched(mask.hold_)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "steps": measured}


def measure_command(folder: Path, words: list[str]) -> dict[str, float]:
    """Processor seconds and peak memory of a command, over its file's size.

    Args:
        folder: where it runs.
        words: its module, and its arguments.

    Raises:
        RuntimeError: it failed.
    """
    with (folder / "log").open("w+", encoding="utf-8") as log:
        call = f"import {words[0]} as command; command.main()"  # as the console scripts do
        arguments = [sys.executable, "-c", call, *words[1:]]
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(0)
        if status:
            raise RuntimeError(f"{' '.join(words)} failed: {log.read()[-2000:]}")
    peak, size = usage.ru_maxrss * 1024, (folder / "model.pt").stat().st_size
    seconds = usage.ru_utime + usage.ru_stime
    ratio = {"peak_gib": round(peak / 2**30, 2), "over_file": round(peak / size, 2)}
    return {"seconds": round(seconds, 1), **ratio}


def main() -> None:
    """Command line."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--scale", type=int, default=1, help="divides the widths (default: 1)")
    parser.add_argument("--of", help=argparse.SUPPRESS)  # the steps alone, in this folder
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.of:
        print(json.dumps(measure_steps(Path(args.of), args.scale)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, VOCABULARY // args.scale)
        words = [__file__, "--output", "-", "--scale", str(args.scale), "--of", name]
        done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cfg, model = build(folder, args.scale)
        prune_(model)
        save(cfg, model, folder / "model.pt")
        del model
        size = (folder / "model.pt").stat().st_size
        commands = {key: measure_command(folder, words) for key, words in COMMANDS.items()}
    command = f"python benchmarks/real_size.py --output {args.output}"
    record = {"command": command, **surroundings(), **found, "file_bytes": size}
    with replacing(args.output) as temporary:
        temporary.write_text(json.dumps({**record, "commands": commands}, indent=1) + "\n")


if __name__ == "__main__":
    main()
