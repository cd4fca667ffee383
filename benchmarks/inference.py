"""How fast dense, compact and exported models translate, on the same sentences.

Every contender is a process of its own, at each thread setting; the processes take turns, so
what else the machine does hits all alike. Examples::

    python benchmarks/inference.py --arch transformer_18x6_iwslt_de_en --heads 0.5 --neurons 0.5 \
        --output results/inference-50-50.json
    python benchmarks/inference.py --dense dense.pt --pruned pruned.pt --data data-bin/multi30k \
        --output results/inference-multi30k.json

With ``--arch`` the weights are random and pruned at random to a shape: speed needs no trained
weights. Translations then get a fixed length, as untrained models do not know when to stop.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contender_models import Models, checkpoint_models, random_models
from tqdm import tqdm

from neuroprune_experiments.provenance import git_commit, hardware
from neuroprune_fairseq.files.atomic import replacing

HERE = Path(__file__).resolve().parent


class Contender:
    """A process that translates on demand."""

    def __init__(self, name: str, **settings: Any) -> None:
        """Start the process and wait until its model is loaded.

        Args:
            name: of the model.
            settings: what contender.py takes.
        """
        self.name, self.settings = name, settings
        threads = str(settings["threads"])
        folders = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "contender.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": folders},
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"inference.py: error: contender {self.name} {self.settings} failed")
        return json.loads(line)

    def translate(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job: seconds, tokens, peak_bytes."""
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def contenders(models: Models, cores: list[int], device: str) -> list[Contender]:
    """Start every model at every way to use each number of cores."""
    started = []
    for number in cores:
        for name, path in models.checkpoints.items():
            settings = {"engine": "fairseq", "path": str(path), "threads": number, "workers": 1}
            started.append(Contender(f"fairseq {name}", device=device, cores=number, **settings))
        ways = {(number, 1), (1, number)} if device == "cpu" else {(1, 1)}
        for threads, workers in sorted(ways):
            for (name, kind), path in models.exports.items():
                settings = {"engine": "ctranslate2", "path": str(path), "compute_type": kind}
                settings.update(threads=threads, workers=workers, device=device, cores=number)
                started.append(Contender(f"ctranslate2 {name} {kind}", **settings))
    return started


def jobs(arguments: argparse.Namespace, sentences: list[list[int]]) -> list[dict[str, Any]]:
    """What every contender has to translate, for every batch size and beam."""
    fixed = arguments.length if arguments.arch else 0
    lengths = {"longest": fixed or 200, "shortest": fixed or 1}
    made = []
    for batch_size in arguments.batch_sizes:
        number = len(sentences) if batch_size > 1 else max(1, len(sentences) // 8)
        for beam in arguments.beams:
            job = {"batch_size": batch_size, "beam": beam, "sentences": sentences[:number]}
            made.append({**job, **lengths})
    return made


def measure(started: list[Contender], work: list[dict], repeats: int) -> list[dict[str, Any]]:
    """Let the contenders take turns; the first round only warms up.

    Returns:
        One record for every contender and job: median, spread, memory.
    """
    found: dict[tuple[int, int], list[dict]] = {}
    for repeat in tqdm(range(repeats + 1), desc="rounds"):
        for number, job in enumerate(tqdm(work, desc="settings", leave=False)):
            for which, contender in enumerate(started):
                answer = contender.translate(job)
                if repeat:
                    found.setdefault((which, number), []).append(answer)
    records = []
    for (which, number), answers in found.items():
        speeds = [answer["tokens"] / answer["seconds"] for answer in answers]
        contender, job = started[which], work[number]
        keys = ("cores", "threads", "workers")
        records.append(
            {
                "contender": contender.name,
                **{key: contender.settings[key] for key in keys},
                **{key: job[key] for key in ("batch_size", "beam")},
                "sentences": len(job["sentences"]),
                "tokens": answers[0]["tokens"],
                "tokens_per_second": statistics.median(speeds),
                "slowest": min(speeds),
                "fastest": max(speeds),
                "peak_bytes": max(answer["peak_bytes"] for answer in answers),
            }
        )
    return records


def best(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every number of cores, batch size, beam and contender its best way to use the cores."""
    kept: dict[tuple, dict] = {}
    for record in records:
        for cores in {r["cores"] for r in records}:
            key = (cores, record["batch_size"], record["beam"], record["contender"])
            speed = record["tokens_per_second"]
            beaten = key in kept and kept[key]["tokens_per_second"] >= speed
            if record["cores"] <= cores and not beaten:
                kept[key] = record
    summary = []
    for (cores, batch_size, beam, _), record in sorted(kept.items()):
        base = kept[(cores, batch_size, beam, "fairseq dense")]["tokens_per_second"]
        row = {"available_cores": cores, "speed_up": record["tokens_per_second"] / base}
        summary.append({**row, **record})
    return summary


def print_summary(summary: list[dict[str, Any]], flop_ratios: dict[int, float]) -> None:
    """A table of the best settings; what FLOPs allow stands beside the compact model."""
    print("cores batch beam contender                    t x w   tokens/s   speed-up  MB")
    for row in summary:
        note = ""
        if row["contender"] == "fairseq compact":
            ratio = flop_ratios[row["beam"]]
            note = f"  (FLOPs allow {ratio:.2f}: {row['speed_up'] / ratio:.0%} of it)"
        print(
            f"{row['available_cores']:5} {row['batch_size']:5} {row['beam']:4} "
            f"{row['contender']:28} {row['threads']} x {row['workers']} "
            f"{row['tokens_per_second']:10.0f} {row['speed_up']:9.2f}x "
            f"{row['peak_bytes'] / 1e6:5.0f}{note}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("--arch", help="random weights of this architecture")
    parser.add_argument("--heads", type=float, default=0.5, help="share of heads kept, with --arch")
    parser.add_argument("--neurons", type=float, default=0.5, help="share of neurons kept")
    parser.add_argument("--vocabulary", type=int, default=10000, help="its size, with --arch")
    parser.add_argument("--length", type=int, default=25, help="tokens per translation, --arch")
    parser.add_argument("--dense", help="checkpoint of the dense model")
    parser.add_argument("--pruned", help="checkpoint of the pruned model, compact or not")
    parser.add_argument("--data", help="prepared corpus, for the sentences")
    parser.add_argument("--subset", default="test")
    parser.add_argument("--sentences", type=int, default=256, help="an eighth of them at batch 1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quantizations", nargs="+", default=["float32", "int8"])
    arguments = parser.parse_args()
    if bool(arguments.arch) == bool(arguments.dense and arguments.pruned and arguments.data):
        parser.error("give either --arch, or --dense, --pruned and --data")
    out = Path(arguments.output)
    if out.exists() and not arguments.overwrite:
        parser.error(f"--output {out} exists; --overwrite replaces it")
    if not out.parent.is_dir():
        parser.error(f"--output {out}: {out.parent} is no folder")
    return arguments


def main() -> None:
    """Build the models, let them run, write and print what came out."""
    arguments = _parse()
    with tempfile.TemporaryDirectory(prefix="neuroprune-benchmark-") as folder:
        make = random_models if arguments.arch else checkpoint_models
        models = make(arguments, Path(folder))
        sentences = random.Random(1).sample(models.sentences, len(models.sentences))
        work = jobs(arguments, sentences)
        started = contenders(models, arguments.cores, arguments.device)
        try:
            records = measure(started, work, arguments.repeats)
            profiles = {
                contender.name: contender.translate({**work[-1], "profile": True})
                for contender in started
                if contender.settings["engine"] == "fairseq" and arguments.device == "cpu"
            }
        finally:
            for contender in started:
                contender.close()
    ratios = models.flop_ratios(sentences, records)
    result = {
        "settings": vars(arguments),
        "hardware": hardware(),
        "git_commit": git_commit(),
        "models": models.sizes,
        "flop_ratio_by_beam": ratios,
        "profile_of_the_last_setting": profiles,
        "best": best(records),
        "all": records,
    }
    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_summary(result["best"], ratios)


if __name__ == "__main__":
    main()
