"""Which torch and fairseq there are."""

from __future__ import annotations

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
