"""Where numbers come from: the machine and the state of the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from neuroprune_fairseq.files.hardware import hardware as hardware


def git_commit() -> str | None:
    """The checkout's commit, with "-dirty" when files differ; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
    ]
    try:
        result = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError:
        return None
    return result.stdout.strip() or None
