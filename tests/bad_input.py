"""For test_bad_input.py: a folder of good and bad files, and every command to try on them."""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
from conftest import TRAIN_FLAGS
from fairseq import checkpoint_utils, options
from fairseq.logging import metrics
from fairseq_cli import train

from neuroprune_fairseq import cli, evaluation
from neuroprune_fairseq.compact import command as compact
from neuroprune_fairseq.export import command as export
from neuroprune_fairseq.frontier import command as frontier

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "data-prep"))

import iwslt14  # noqa: E402
import multi30k  # noqa: E402
import text  # noqa: E402
import toy  # noqa: E402

SMALL = ["--encoder-layers", "1", "--decoder-layers", "1"]
CODE = "__import__('os').mkdir('executed')"
RECORD = {
    **{"label": "a", "method": "dsp", "bleu": 30.0, "valid_bleu": 31.0, "settings": {}},
    **{"heads_kept": 3, "heads_total": 4, "heads_kept_per_module": {"encoder.layers.0.x": 3}},
    **{"attn_sparsity": 0.1, "mlp_sparsity": 0.2, "total_sparsity": 0.15},
    "generation_seconds": 2.0,
}


class Payload:
    """Unpickled carelessly, it makes the folder 'executed'."""

    def __init__(self, call, argument):
        self._result = call, (argument,)

    def __reduce__(self):
        return self._result


# The files.


def make_files(folder: Path, corpus: Path) -> None:
    """Fill a folder with one good and many bad files of every kind."""
    (folder / "file").write_text("mine\n")
    (folder / "full-folder").mkdir()
    (folder / "full-folder" / "thesis.tex").write_text("mine\n")
    _make_corpora(folder, corpus)
    _make_checkpoints(folder)
    _make_results(folder)
    _make_texts(folder / "raw")
    _make_archives(folder)


def _make_corpora(folder: Path, corpus: Path) -> None:
    good = shutil.copytree(corpus, folder / "corpus")
    (good / "text").mkdir()
    (good / "text" / "test.en").write_text("a b c\n" * 20)
    for name, damage in {
        "no-dictionary": lambda at: [path.unlink() for path in at.glob("dict.*")],
        "bad-dictionary": lambda at: [path.write_bytes(b"\xff\n") for path in at.glob("dict.*")],
        "no-training-text": lambda at: [path.unlink() for path in at.glob("train.*")],
        "cut-text": lambda at: [path.write_bytes(b"MMID") for path in at.glob("test.*.idx")],
        "no-reference": lambda at: shutil.rmtree(at / "text"),
        "latin1": lambda at: (at / "text" / "test.en").write_bytes(b"sch\xf6n\n" * 20),
    }.items():
        damage(shutil.copytree(good, folder / name))


def _make_checkpoints(folder: Path) -> None:
    flags = "--max-update 1 --disable-validation --no-epoch-checkpoints --save-dir"
    run_train([str(folder / "corpus"), *shlex.split(flags), str(folder / "run")])
    shutil.move(folder / "run" / "checkpoint_last.pt", folder / "good.pt")
    shutil.rmtree(folder / "run")
    state = torch.load(folder / "good.pt", weights_only=True)
    for name, damage in {
        "nan": lambda s: next(iter(s["model"].values())).fill_(float("nan")),
        "no-weights": lambda s: s["model"].clear(),
        "no-settings": lambda s: s["cfg"].clear(),
        "lstm": lambda s: setattr(s["cfg"]["model"], "arch", "lstm"),
        "unknown": lambda s: setattr(s["cfg"]["model"], "arch", "nonsense"),
        "quant-noise": lambda s: setattr(s["cfg"]["model"], "quant_noise_pq", 0.1),
        "code-in-model": lambda s: setattr(s["cfg"]["model"], "adaptive_softmax_cutoff", CODE),
        "code-in-task": lambda s: s["cfg"]["task"].update(left_pad_source=CODE),
        "mkdir": lambda s: s.update(extra_state=Payload(os.mkdir, "executed")),
        "eval": lambda s: s["cfg"].update(model=Payload(eval, CODE)),
    }.items():
        damage(bad := copy.deepcopy(state))
        torch.save(bad, folder / f"{name}.pt")
    torch.save({"weights": torch.ones(2)}, folder / "other.pt")
    whole = (folder / "good.pt").read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello\n",
        "noise": bytes(range(256)) * 40,
        "torn-zip": b"PK\x03\x04 torn",
        "system": pickle.dumps({"model": Payload(os.system, "mkdir executed"), "cfg": {}}),
    }.items():
        (folder / f"{name}.pt").write_bytes(content)


def _make_results(folder: Path) -> None:
    good = json.dumps(RECORD) + "\n"
    for name, content in {
        "good": good,
        "torn": good + good[:20],
        "empty": "",
        "list": "[1]\n",
        "deep": "[" * 100_000,
        "negative": json.dumps({**RECORD, "bleu": -1}),
        "fields": '{"bleu": 1}\n',
    }.items():
        (folder / f"{name}.jsonl").write_text(content)
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00")


def _make_texts(raw: Path) -> None:
    raw.mkdir()
    words = "haus baum hund katze geht kommt"
    for split, size in (("train", 60), ("valid", 5), ("test", 5)):
        for language in ("de", "en"):
            lines = (f"{words} {split} {language} {number}\n" for number in range(size))
            (raw / f"{split}.{language}").write_text("".join(lines))
    whole = (raw / "train.en").read_bytes()
    for name, content in {
        "unequal": b"one\ntwo\n",
        "void": b"",
        "blank": b"\n \n",
        "unseen": "\u200b\n".encode(),
        "latin1": b"gut\nsch\xf6n\n",
        "utf16": "gut\n".encode("utf-16-le"),
    }.items():
        (raw / f"{name}.de").write_bytes(content)
        (raw / f"{name}.en").write_bytes(whole)
    (raw / "half.en").write_bytes(whole)
    (raw / "half.de.gz").write_bytes(gzip.compress(whole)[:40])


def _make_archives(folder: Path) -> None:
    for name, member, kind in (
        ("absolute", "/tmp/absolute", tarfile.REGTYPE),
        ("parent", "de-en/../../up", tarfile.REGTYPE),
        ("symlink", "de-en/link", tarfile.SYMTYPE),
        ("hardlink", "de-en/hard", tarfile.LNKTYPE),
        ("device", "de-en/device", tarfile.CHRTYPE),
        ("lacking", "de-en/one", tarfile.REGTYPE),
    ):
        info = tarfile.TarInfo(member)
        info.type, info.linkname = kind, "/etc/passwd"
        with tarfile.open(folder / f"{name}.tgz", "w:gz") as tar:
            tar.addfile(info, io.BytesIO())
    whole = (folder / "lacking.tgz").read_bytes()
    (folder / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (folder / "page.tgz").write_bytes(b"<html>404</html>")


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder with a digest of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = content
    return found


# The commands, in this process; the shell scripts in one of their own.


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
        plain = [word for word in plain if word not in ("--label-smoothing", "0.1")]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, [*arguments[:1], *plain, *flags, *arguments[1:]])
    args.tpu = False  # fairseq takes --bf16 to mean a TPU
    train.main(args)


def _program(name: str):
    def run(arguments: list[str]) -> None:
        old = sys.argv, sys.path[:]
        sys.argv = [name, *arguments]
        sys.path.insert(0, str(ROOT / "scripts"))
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        finally:
            sys.argv, sys.path[:] = old

    return run


def _generate(checkpoint, data, settings, output, sentences) -> None:
    """Stands in for fairseq-generate, which takes seconds to start."""
    lines = [f"H-{number}\t-1\ta b c\n" for number in range(sentences)]
    speed = "Translated 20 sentences (60 tokens) in 1.0s (20.0 sentences/s, 60.0 tokens/s)"
    output.write_text("".join(lines) + speed)


def _evaluate(arguments: list[str]) -> None:
    generate, evaluation.generate = evaluation.generate, _generate
    try:
        _program("evaluate.py")(arguments)
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


SCRIPTS = "prepare pretrain finetune_neuroprune finetune_baseline evaluate quickstart".split()
COMMANDS = {
    **{"fairseq-train": run_train, "compact": compact.main, "export": export.main},
    **{"frontier": frontier.main, "user-dir": cli.user_dir, "evaluate": _evaluate},
    **{"report": _program("report.py"), "model_flags": _program("model_flags.py")},
    **{f"{name}.sh": _script(name) for name in SCRIPTS},
}
PREPARATIONS = {"text": text.main, "toy": toy.main, "multi30k": multi30k.main}
PREPARATIONS["iwslt14"] = iwslt14.main
COMMANDS |= {
    name: lambda words, main=main: sys.exit(main(words)) for name, main in PREPARATIONS.items()
}


@contextlib.contextmanager
def limited_disk(size: int | None):
    """No file may grow beyond so many bytes, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, old if size is None else (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


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
