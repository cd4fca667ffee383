"""One contender of benchmarks/inference.py: a process that holds one model and translates.

Reads one JSON job a line from its standard input, answers with one JSON line each. An engine's
process never imports fairseq, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Run = Callable[[Job], int]  # translates a job's sentences, returns the number of tokens


def _batches(sentences: list[list[int]], batch_size: int) -> list[list[list[int]]]:
    by_length = sorted(sentences, key=len)
    return [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]


def fairseq_translator(path: str, threads: int, device: str) -> tuple[Run, Callable[[Job], dict]]:
    """fairseq's own model and beam search, set up as fairseq-generate sets them up."""
    import torch
    from fairseq.data import data_utils
    from fairseq.sequence_generator import SequenceGenerator

    from neuroprune_fairseq.files.checkpoint import read_checkpoint
    from neuroprune_fairseq.files.models import model_of, stand_in_dictionaries

    torch.set_num_threads(threads)
    state = read_checkpoint(path)
    model, dictionary = model_of(state, path).to(device), stand_in_dictionaries(state)[1]
    model.make_generation_fast_(need_attn=False)

    def run(job: Job) -> int:
        generator = SequenceGenerator(
            [model],
            dictionary,
            beam_size=job["beam"],
            max_len_b=job["longest"],
            min_len=job["shortest"],
        )
        tokens = 0
        for batch in _batches(job["sentences"], job["batch_size"]):
            rows = [torch.tensor(sentence) for sentence in batch]
            source = data_utils.collate_tokens(rows, dictionary.pad(), left_pad=True).to(device)
            lengths = torch.tensor([len(row) for row in rows], device=device)
            inputs = {"src_tokens": source, "src_lengths": lengths}
            found = generator.generate([model], {"net_input": inputs})
            tokens += sum(len(beams[0]["tokens"]) for beams in found)
        return tokens

    def profile(job: Job) -> dict[str, float]:
        """Shares of the time: matrix products, torch's other operators, Python and the rest."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            run(job)
        start = time.perf_counter()
        run(job)  # the wall time without the profiler's own
        wall = time.perf_counter() - start
        operators = {
            event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()
        }
        products = sum(operators.get(f"aten::{n}", 0.0) for n in ("addmm", "mm", "bmm", "baddbmm"))
        everything = sum(operators.values())
        return {"wall": wall, "matrix_products": products, "other_operators": everything - products}

    return run, profile


def _ctranslate2(path: str, threads: int, workers: int, device: str, kind: str) -> Run:
    import ctranslate2

    engine = ctranslate2.Translator(
        path, device=device, compute_type=kind, intra_threads=threads, inter_threads=workers
    )
    vocabulary = json.loads(next(Path(path).glob("*vocabulary.json")).read_text(encoding="utf-8"))

    def run(job: Job) -> int:
        sentences = [[vocabulary[token] for token in row[:-1]] for row in job["sentences"]]
        results = engine.translate_batch(
            sentences,
            beam_size=job["beam"],
            max_batch_size=job["batch_size"],
            max_decoding_length=job["longest"],
            min_decoding_length=job["shortest"],
        )
        return sum(len(found.hypotheses[0]) + 1 for found in results)  # with </s>, as fairseq

    return run


def _peak_bytes(device: str) -> int:
    if device != "cpu" and "torch" in sys.modules:
        return sys.modules["torch"].cuda.max_memory_allocated()
    # Not getrusage: it counts what the starting process held before this one was its own.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def main() -> None:
    """Load the model named on the command line, then answer jobs until the input ends."""
    settings = json.loads(sys.argv[1])
    path, threads, device = settings["path"], settings["threads"], settings["device"]
    profile = None
    if settings["engine"] == "fairseq":
        run, profile = fairseq_translator(path, threads, device)
    else:
        run = _ctranslate2(path, threads, settings["workers"], device, settings["compute_type"])
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if job.get("profile"):
            print(json.dumps(profile(job) if profile else {}), file=answers, flush=True)
            continue
        start = time.perf_counter()
        tokens = run(job)
        answer = {"seconds": time.perf_counter() - start, "tokens": tokens}
        answer["peak_bytes"] = _peak_bytes(device)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
