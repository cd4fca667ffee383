"""The methods that can be searched: their options, their grids, and how a setting is named."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuroprune_fairseq.files.errors import refuse

Settings = dict[str, str]  # option of the script, without "--" -> value, in canonical form

# What every script understands and a grid may vary, too.
COMMON_OPTIONS = ("lr", "warmup-updates", "dropout", "max-tokens")

# Paper, section 5: alpha x beta x theta, 6 x 2 x 16 runs.
PAPER_GRID = (
    "attn-penalty-weight=0.005,0.01,0.05,0.1,0.25,0.5;mlp-penalty-weight=0.05,0.1;"
    "head-distance-threshold=" + ",".join(f"{step / 50:.2f}" for step in range(5, 21))
)

# Options as they appear in folder names; others appear in full.
SHORT_NAMES = {
    "attn-penalty-weight": "a",
    "mlp-penalty-weight": "b",
    "head-distance-threshold": "t",
    "heads-to-keep": "heads",
    "target-heads": "heads",
    "target-sparsity": "sparsity",
    "l0-penalty-weight": "l0",
    "l1-penalty-weight": "l1",
    "cooldown-updates": "cooldown",
    "prune-updates": "updates",
    "prune-steps": "steps",
    "penalty-solver": "",
    "warmup-updates": "warmup",
}


@dataclass(frozen=True)
class Range:
    """Where the sampler looks for a value; ``high`` None is the model's number of heads."""

    low: float
    high: float | None
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Method:
    """How one method is trained.

    Example:
        ``dsp`` is ``finetune_baseline.sh --method dsp --dsp-mode joint`` with the searched
        option ``--heads-to-keep``, and understands ``--cooldown-updates`` and more.
    """

    script: str
    search: Mapping[str, Range]
    fixed: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # options that take no value; "yes" and "no" in a grid
    paper_grid: str = ""

    @property
    def known(self) -> tuple[str, ...]:
        """Every option that a grid may name."""
        return (*self.search, *self.options, *self.flags, *COMMON_OPTIONS)


def _dsp(mode: str) -> Method:
    options = ("score-lr", "score-clip-ratio", "cooldown-updates")
    fixed = {"method": "dsp", "dsp-mode": mode}
    return Method("finetune_baseline.sh", {"heads-to-keep": _HEADS}, fixed, options)


_HEADS = Range(1, None, whole=True)
_PENALTIES = {
    "attn-penalty-weight": Range(1e-4, 0.5, log=True),
    "mlp-penalty-weight": Range(1e-3, 0.5, log=True),
}
_THRESHOLD = {"head-distance-threshold": Range(0.1, 0.4)}
_PRUNING_OPTIONS = ("near-zero", "head-merge")
_PENALTY_OPTIONS = ("penalty-solver", *_PRUNING_OPTIONS)

METHODS: dict[str, Method] = {
    "neuroprune": Method(
        "finetune_neuroprune.sh",
        {**_PENALTIES, **_THRESHOLD},
        options=_PENALTY_OPTIONS,
        paper_grid=PAPER_GRID,
    ),
    # Its steps are not divided by Adam's second moment: other weights fit than above.
    "neuroprune-proximal": Method(
        "finetune_neuroprune.sh",
        {
            "attn-penalty-weight": Range(0.03, 3.0, log=True),
            "mlp-penalty-weight": Range(0.3, 100.0, log=True),
            **_THRESHOLD,
        },
        {"penalty-solver": "proximal"},
        _PRUNING_OPTIONS,
    ),
    # The controller finds the penalties' strength and the threshold by itself.
    "neuroprune-target": Method(
        "finetune_neuroprune.sh",
        {"target-heads": _HEADS, "target-sparsity": Range(0.0, 0.95)},
        {
            "attn-penalty-weight": "0",
            "mlp-penalty-weight": "0",
            "head-distance-threshold": "none",
        },
        (
            *_PENALTIES,
            *_PENALTY_OPTIONS,
            *("target-attn-sparsity", "target-mlp-sparsity", "target-update", "target-interval"),
            "head-criterion",
        ),
    ),
    "dsp": _dsp("joint"),
    "dsp-pipelined": _dsp("pipelined"),
    "dsp-straight-through": _dsp("straight-through"),
    "voita": Method(
        "finetune_baseline.sh",
        {"l0-penalty-weight": Range(1e-4, 1.0, log=True)},
        {"method": "voita"},
        ("score-lr", "gate-updates"),
    ),
    "michel": Method(
        "finetune_baseline.sh",
        {"heads-to-keep": _HEADS},
        {"method": "michel"},
        ("prune-updates", "prune-steps"),
        ("importance-recompute",),
    ),
    "l1": Method(
        "finetune_baseline.sh",
        {"l1-penalty-weight": Range(1e-7, 1e-3, log=True)},
        {"method": "l1"},
    ),
}


def canonical(value: str | float) -> str:
    """One spelling for each value, so that 1e-3 and 0.001 are the same setting.

    Raises:
        ValueError: the number is not finite.
    """
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    return f"{number:.6g}"


def _axis(method: str, text: str) -> tuple[str, list[str]]:
    """'option=1,2' -> ('option', ['1', '2'])."""
    name, separator, values = (part.strip() for part in text.partition("="))
    if not separator:
        refuse(f"--grid: '{text.strip()}' must be OPTION=VALUE,VALUE,...")
    known = METHODS[method].known
    if name not in known:
        refuse(f"--grid: '{name}' is no option of {method}; it has {', '.join(known)}")
    try:
        found = [canonical(value) for value in values.split(",") if value.strip()]
    except ValueError as error:
        refuse(f"--grid: {name}: {error}")
    if not found:
        refuse(f"--grid: {name} has no value, so the grid has no runs")
    if name in METHODS[method].flags and not {*found} <= {"yes", "no"}:
        refuse(f"--grid: {name} is yes or no, not {','.join(found)}")
    return name, list(dict.fromkeys(found))


def parse_grid(method: str, text: str) -> list[Settings]:
    """All settings of a grid.

    Args:
        method: key of :data:`METHODS`.
        text: "paper", or axes as in "heads-to-keep=36,72;cooldown-updates=500".

    Returns:
        The product of the axes, at least one, without repetitions.

    Raises:
        SystemExit: one line, when the grid is malformed or has no runs.
    """
    if text.strip() == "paper":
        text = METHODS[method].paper_grid
        if not text:
            options = ", ".join(METHODS[method].search)
            refuse(f"--grid paper is NeuroPrune's; for {method} give values of {options}")
    axes = [_axis(method, part) for part in text.split(";") if part.strip()]
    if not axes:
        refuse("--grid has no runs; as in --grid 'attn-penalty-weight=1e-4,1e-3'")
    names = [name for name, _ in axes]
    if len({*names}) < len(names):
        refuse(f"--grid names {max(names, key=names.count)} twice")
    return [dict(zip(names, values)) for values in itertools.product(*(v for _, v in axes))]


def script_options(method: str, settings: Settings) -> list[str]:
    """The options of the method's script for one setting, those it does not know last."""
    chosen = METHODS[method]
    arguments: list[str] = []
    for name, value in {**chosen.fixed, **settings}.items():
        if name not in chosen.flags:
            arguments += [f"--{name}", value]
        elif value == "yes":
            arguments.append(f"--{name}")
    return arguments


def run_key(method: str, settings: Settings, seed: int) -> str:
    """What identifies a run of a study: equal keys are the same run."""
    return json.dumps([method, sorted(settings.items()), seed])


def run_name(method: str, settings: Settings, seed: int) -> str:
    """Folder name of a run, such as ``neuroprune-a0.005-b0.05-t0.2-s1``."""
    parts = [method]
    parts += [f"{SHORT_NAMES.get(name, name)}{value}" for name, value in sorted(settings.items())]
    return "-".join([*parts, f"s{seed}"]).replace("/", "_")
