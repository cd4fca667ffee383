"""Do the same flags still train the same model, bit for bit? An older commit against this tree.

    python benchmarks/same_as_before.py --old COMMIT --data DIR --out results/same-as-before.json

The older commit is checked out beside a temporary folder; each run below is trained with both and
every weight of the last checkpoints is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    "--arch transformer_18x6_tiny --share-all-embeddings --optimizer adam --lr 1e-3 --dropout 0.1 "
    "--label-smoothing 0.1 --max-tokens 4096 --num-workers 0 --cpu --no-progress-bar --seed 1 "
    "--max-epoch 2 --no-epoch-checkpoints --log-format none"
)
OURS = "--task translation_neuroprune --criterion label_smoothed_cross_entropy_neuroprune"
STOCK = "--criterion label_smoothed_cross_entropy"
DSP = "--heads-to-keep 36 --cooldown-updates 40 --score-clip-ratio 10"
THETA = f"{OURS} --attn-penalty-weight 1e-3 --mlp-penalty-weight 0.1 --head-distance-threshold 0.5"
TARGETS = f"{OURS} --target-heads 36 --target-sparsity 0.785 --shrink"
RUNS = {  # name: flags of the older commit, flags now
    "NeuroPrune with theta": (THETA, THETA),
    "targets with --shrink": (TARGETS, TARGETS),
    "DSP": (
        f"--task translation_dsp {STOCK} {DSP}",
        f"--task translation_neuroprune --pruner dsp {STOCK} {DSP}",
    ),
}


def train(tree: Path, data: Path, save_dir: Path, flags: str) -> dict[str, torch.Tensor]:
    """Train with the plugin of a tree; returns the last checkpoint's weights."""
    command = [sys.executable, "-m", "fairseq_cli.train", str(data)]
    command += ["--user-dir", str(tree / "neuroprune_fairseq"), "--save-dir", str(save_dir)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, *COMMON.split(), *flags.split()],
        **{"env": environment, "check": True, "stdout": subprocess.DEVNULL},
        stderr=subprocess.DEVNULL,
    )
    safe = [argparse.Namespace]
    with torch.serialization.safe_globals(safe):
        return torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]


def main() -> None:
    """Train every run twice and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", required=True, help="the older commit")
    parser.add_argument("--data", required=True, type=Path, help="prepared corpus")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder, old = Path(name), Path(name) / "old"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", str(old), arguments.old], check=True)
        try:
            for run, flags in RUNS.items():
                before = train(old, arguments.data, folder / f"{run} before", flags[0])
                after = train(ROOT, arguments.data, folder / f"{run} after", flags[1])
                same = before.keys() == after.keys()
                same = same and all(torch.equal(after[key], before[key]) for key in before)
                found[run] = {"old": flags[0], "new": flags[1], "bit for bit the same": same}
                print(run, "is the same" if same else "DIFFERS", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)
    command = f"python benchmarks/same_as_before.py --old {arguments.old} --data DIR --out FILE"
    arguments.out.write_text(json.dumps({"command": command, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
