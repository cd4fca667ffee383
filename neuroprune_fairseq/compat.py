"""What today's torch and Python need so that fairseq runs, and runs safely.

The one place for version checks and for workarounds of fairseq; each has its reason.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import logging
import re

# torch 2.6 is the first release whose torch.load refuses to run code by default.
MINIMUM_TORCH = (2, 6)
MINIMUM_FAIRSEQ = (0, 12)


def _release(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0); a part that is no number ends it."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def check_version(package: str, version: str | None, minimum: tuple[int, ...]) -> None:
    """Leave with one line when ``package`` is missing or older than ``minimum``.

    Args:
        package: name for the message.
        version: its version, None when it is not installed.
        minimum: smallest supported release.

    Raises:
        SystemExit: one line that names the package and the way out. Not an
            ImportError, since inside fairseq-train that would end as a traceback.
    """
    wanted = ".".join(map(str, minimum))
    if version is None:
        found = "is not installed"
    elif _release(version) < minimum:
        found = f"{version} is too old"
    else:
        return
    raise SystemExit(
        f"neuroprune_fairseq: {package} {found}; {package} >= {wanted} is needed "
        "(in a checkout: pip install -c constraints.txt -e '.[fairseq]')"
    )


def check_environment() -> None:
    """Leave with one clear line when torch or fairseq is missing or too old."""
    # fairseq's import advises to install packages for speech, before any line of ours.
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    for package, minimum in (("torch", MINIMUM_TORCH), ("fairseq", MINIMUM_FAIRSEQ)):
        if importlib.util.find_spec(package) is None:
            check_version(package, None, minimum)
        module = importlib.import_module(package)
        check_version(package, getattr(module, "__version__", "0"), minimum)


def allow_fairseq_checkpoints() -> None:
    """Let torch.load read fairseq's checkpoints without weights_only=False.

    fairseq stores its configuration as argparse.Namespace, which torch's safe
    loader refuses; a Namespace only holds attributes, so allowing it runs no code.
    """
    import torch

    torch.serialization.add_safe_globals([argparse.Namespace])


def tell_tasks_their_trainer() -> None:
    """Hand the trainer to a task's ``use_trainer`` when an epoch begins.

    A model that gets smaller needs another optimizer and another data-parallel wrapper.
    fairseq's Trainer makes them anew (``reinitialize``), but its hooks hand a task the model
    alone, and nothing that a task is given leads to the trainer.
    """
    from fairseq.trainer import Trainer

    original = Trainer.begin_epoch
    if hasattr(original, "__wrapped__"):
        return  # told already

    @functools.wraps(original)
    def begin_epoch(trainer, epoch):
        if hasattr(trainer.task, "use_trainer"):
            trainer.task.use_trainer(trainer)
        return original(trainer, epoch)

    Trainer.begin_epoch = begin_epoch
