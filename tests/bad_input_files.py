"""For test_bad_input.py: a folder with good and bad files of every kind."""

from __future__ import annotations

import bz2
import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from bad_input_commands import run_train

CODE = "__import__('os').mkdir('executed')"
RECORD = {
    **{"label": "a", "method": "dsp", "bleu": 30.0, "valid_bleu": 31.0, "settings": {}},
    **{"heads_kept": 3, "heads_total": 4, "heads_kept_per_module": {"encoder.layers.0.x": 3}},
    **{"attn_sparsity": 0.1, "mlp_sparsity": 0.2, "total_sparsity": 0.15},
    "generation_seconds": 2.0,
}
SPEED = {
    **{"label": "a", "method": "dsp", "bleu": 30.0, "engine": "CTranslate2", "beam": 5},
    **{"compute_type": "int8", "threads": 1, "batch_size": 64, "sentences": 9, "speedup": 2.0},
    **{"generation_seconds": [1.0], "tokens_per_second": 9.0, "speedup_range": [2.0, 2.0]},
}


class Payload:
    """Unpickled carelessly, it makes the folder 'executed'."""

    def __init__(self, call, argument):
        self._result = call, (argument,)

    def __reduce__(self):
        return self._result


# A process that trains in a folder, as far as locks can tell.
_HOLDER = """
import fcntl, sys
locks = [open(f"{sys.argv[1]}/{name}", "w") for name in (".lock", ".neuroprune.lock")]
fcntl.flock(locks[0], fcntl.LOCK_EX)
fcntl.lockf(locks[1], fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


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
        "other-words": lambda at: [p.write_text("a 1\nb 1\n") for p in at.glob("dict.*")],
        "swapped-words": lambda at: [
            p.write_text("\n".join(reversed(p.read_text().split("\n")[:-1])) + "\n")
            for p in at.glob("dict.*")
        ],
        "no-training-text": lambda at: [path.unlink() for path in at.glob("train.*")],
        "cut-text": lambda at: [path.write_bytes(b"MMID") for path in at.glob("test.*.idx")],
        "no-reference": lambda at: shutil.rmtree(at / "text"),
        "latin1": lambda at: (at / "text" / "test.en").write_bytes(b"sch\xf6n\n" * 20),
    }.items():
        damage(shutil.copytree(good, folder / name))


def _remove_encoder_layers_(state: dict) -> None:
    names = {".".join(name.split(".")[:3]) for name in state["model"] if "encoder.layers." in name}
    state["cfg"]["model"].per_layer_config = {name: {"removed": True} for name in names}
    for name in [name for name in state["model"] if name.startswith("encoder.layers.")]:
        del state["model"][name]


def _make_checkpoints(folder: Path) -> None:
    flags = "--max-update 1 --disable-validation --no-epoch-checkpoints --save-dir"
    run_train([str(folder / "corpus"), *shlex.split(flags), str(folder / "run")])
    shutil.move(folder / "run" / "checkpoint_last.pt", folder / "good.pt")
    shutil.rmtree(folder / "run")
    state = torch.load(folder / "good.pt", weights_only=True)
    for name, damage in {
        "nan": lambda s: s["model"]["encoder.layers.0.fc1.weight"].fill_(float("nan")),
        "no-weights": lambda s: s["model"].clear(),
        "no-settings": lambda s: s["cfg"].clear(),
        "lstm": lambda s: setattr(s["cfg"]["model"], "arch", "lstm"),
        "unknown": lambda s: setattr(s["cfg"]["model"], "arch", "nonsense"),
        "quant-noise": lambda s: setattr(s["cfg"]["model"], "quant_noise_pq", 0.1),
        "sizes": lambda s: setattr(s["cfg"]["model"], "per_layer_config", {"encoder.layers.0": 1}),
        "removed": lambda s: setattr(
            s["cfg"]["model"], "per_layer_config", {"encoder.layers.0": {"removed": "yes"}}
        ),
        "no-encoder": _remove_encoder_layers_,
        "earlier": lambda s: setattr(s["cfg"]["model"], "neuroprune_shapes", {}),
        "roberta": lambda s: setattr(s["cfg"]["model"], "arch", "roberta"),
        "code-in-model": lambda s: setattr(s["cfg"]["model"], "adaptive_softmax_cutoff", CODE),
        "code-in-task": lambda s: s["cfg"]["task"].update(left_pad_source=CODE),
        "code-nested": lambda s: setattr(
            s["cfg"]["model"], "encoder", {"xformers_att_config": CODE}
        ),
        "code-in-bytes": lambda s: setattr(
            s["cfg"]["model"], "adaptive_softmax_cutoff", CODE.encode()
        ),
        "no-number": lambda s: setattr(s["cfg"]["model"], "encoder_layers", "many"),
        "huge": lambda s: s["model"]["encoder.layers.0.fc1.weight"].fill_(1e30),
        "begun-earlier": lambda s: s["extra_state"].update(TranslationDspTask={"num_updates": 1}),
        "other-task": lambda s: s["extra_state"].update(OtherTask={"pruner": "dsp"}),
        "broken-state": lambda s: s["extra_state"]["TranslationNeuropruneTask"].update(state=7),
        "no-state": lambda s: s["extra_state"].update(TranslationNeuropruneTask={"a": 1}),
        "mkdir": lambda s: s.update(extra_state=Payload(os.mkdir, "executed")),
        "eval": lambda s: s["cfg"].update(model=Payload(eval, CODE)),
    }.items():
        damage(bad := copy.deepcopy(state))
        torch.save(bad, folder / f"{name}.pt")
    torch.save({"weights": torch.ones(2)}, folder / "other.pt")
    whole = (folder / "good.pt").read_bytes()
    (folder / "-x.pt").write_bytes(whole[: len(whole) // 2])
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
    (folder / "speeds.json").write_text(json.dumps({"rows": [SPEED]}))
    (folder / "slow.json").write_text(json.dumps({"rows": [{**SPEED, "speedup": "twice"}]}))
    (folder / "models.json").write_text(json.dumps([{"name": "a"}]))
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
        "endless": b"gut " * 300_000,
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
    header = tarfile.TarInfo("de-en/one")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4_000_000
    bomb = header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size)
    (folder / "long-name.tgz").write_bytes(bz2.compress(bomb))


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder with a digest of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = content
    return found


def remove(folder: Path, names) -> None:
    """Remove paths of a listing."""
    for path in (folder / name for name in sorted(names, reverse=True)):
        path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def training_in(folder: Path) -> Iterator[None]:
    """Within it another process holds the locks of a training in a folder."""
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:
        holder.stdout.readline()
        yield
        holder.stdin.close()
