"""The methods that can be searched: what trains them, their grids, how a setting is named."""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from neuroprune_fairseq.files.errors import refuse

Settings = dict[str, str]  # flag of fairseq-train, without "--" -> value, in canonical form

# fairseq's flags that a grid may vary, too.
COMMON_FLAGS = ("lr", "warmup-updates", "dropout", "max-tokens")


@dataclass(frozen=True)
class Range:
    """Where the sampler looks for a value; ``high`` None is the model's number of heads."""

    low: float
    high: float | None
    log: bool = False
    whole: bool = False


HEADS = Range(1, None, whole=True)
THRESHOLD = Range(0.1, 0.4)
# Paper, section 5: alpha x beta x theta, 6 x 2 x 16 runs.
PAPER_GRID = (
    "attn-penalty-weight=0.005,0.01,0.05,0.1,0.25,0.5;mlp-penalty-weight=0.05,0.1;"
    "head-distance-threshold=" + ",".join(f"{step / 50:.2f}" for step in range(5, 21))
)


@dataclass(frozen=True)
class Method:
    """A pruner with some of its flags fixed and some searched."""

    pruner: str
    search: Mapping[str, Range]
    fixed: Mapping[str, str] = field(default_factory=dict)
    paper_grid: str = ""
    recipe: str = "baseline"

    @property
    def script(self) -> str:
        """The recipe that fine-tunes with it."""
        return f"finetune_{self.recipe}.sh"

    def flags(self) -> dict[str, Field]:
        """The fields of its flags, by flag without "--", aliases among them."""
        from neuroprune_fairseq.pruners import cofi, dsp, michel, neuroprune, penalties, voita

        groups = {
            "neuroprune": (neuroprune.NeuroPruneFlags, penalties.PenaltyFlags),
            "dsp": (dsp.DspFlags,),
            "voita": (voita.VoitaFlags,),
            "cofi": (cofi.CofiFlags,),
            "michel": (michel.MichelFlags,),
            "l1": (penalties.PenaltyFlags,),
        }
        found: dict[str, Field] = {}
        for each in (each for group in groups[self.pruner] for each in fields(group)):
            for flag in (f"--{each.name}", each.metadata.get("argparse_alias")):
                if flag:
                    found[flag.removeprefix("--").replace("_", "-")] = each
        return found


def _dsp(mode: str) -> Method:
    return Method("dsp", {"heads-to-keep": HEADS}, {"dsp-mode": mode})


METHODS: dict[str, Method] = {
    "neuroprune": Method(
        "neuroprune",
        {
            "attn-penalty-weight": Range(1e-4, 0.5, log=True),
            "mlp-penalty-weight": Range(1e-3, 0.5, log=True),
            "head-distance-threshold": THRESHOLD,
        },
        paper_grid=PAPER_GRID,
        recipe="neuroprune",
    ),
    # Its steps are not divided by Adam's second moment: other weights fit than above.
    "neuroprune-proximal": Method(
        "neuroprune",
        {
            "attn-penalty-weight": Range(0.03, 3.0, log=True),
            "mlp-penalty-weight": Range(0.3, 100.0, log=True),
            "head-distance-threshold": THRESHOLD,
        },
        {"penalty-solver": "proximal"},
        recipe="neuroprune",
    ),
    # The controller finds the penalties' strength and the threshold by itself.
    "neuroprune-target": Method(
        "neuroprune",
        {"target-heads": HEADS, "target-sparsity": Range(0.0, 0.95)},
        recipe="targets",
    ),
    "dsp": _dsp("joint"),
    "dsp-pipelined": _dsp("pipelined"),
    "dsp-straight-through": _dsp("straight-through"),
    "voita": Method("voita", {"l0-penalty-weight": Range(1e-4, 1.0, log=True)}),
    "cofi": Method("cofi", {"target-sparsity": Range(0.1, 0.95)}),
    "michel": Method("michel", {"heads-to-keep": HEADS}),
    "l1": Method("l1", {"l1-penalty-weight": Range(1e-7, 1e-3, log=True)}),
}

# Flags as they appear in folder names; others appear in full.
SHORT_NAMES = {
    **{"attn-penalty-weight": "a", "mlp-penalty-weight": "b", "head-distance-threshold": "t"},
    **{"heads-to-keep": "heads", "target-heads": "heads", "target-sparsity": "sparsity"},
    **{"l0-penalty-weight": "l0", "l1-penalty-weight": "l1", "cooldown-updates": "cooldown"},
    **{"prune-updates": "updates", "prune-steps": "steps", "warmup-updates": "warmup"},
    "penalty-solver": "",
}


@dataclass(frozen=True)
class Run:
    """One setting of a method with one seed."""

    method: str
    settings: Settings
    seed: int

    @property
    def name(self) -> str:
        """Its folder in the run folder, such as ``neuroprune-a0.005-b0.05-t0.2-s1``."""
        parts = (f"{SHORT_NAMES.get(n, n)}{v}" for n, v in sorted(self.settings.items()))
        return "-".join([self.method, *parts, f"s{self.seed}"]).replace("/", "_")


@dataclass(frozen=True)
class Plan:
    """What is to be run: a grid, or a number of sampled settings; each with every seed."""

    seeds: Sequence[int]
    grid: Sequence[Settings] = ()
    samples: int = 0
    heads_total: int = 0

    @property
    def total(self) -> int:
        """Number of runs."""
        return (self.samples or len(self.grid)) * len(self.seeds)


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
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.6g}"


def suggest(trial: Any, method: str, heads_total: int) -> Settings:
    """A setting that Optuna's sampler chooses for a trial.

    Args:
        trial: optuna.Trial.
        method: key of :data:`METHODS`.
        heads_total: of the model.
    """
    settings = {}
    for name, space in METHODS[method].search.items():
        high = heads_total if space.high is None else space.high
        if space.whole:
            value = trial.suggest_int(name, int(space.low), int(high), log=space.log)
        else:
            value = f"{trial.suggest_float(name, space.low, high, log=space.log):.3g}"
        settings[name] = canonical(value)
    return settings


def _is_switch(method: str, name: str) -> bool:
    """Whether a flag takes no value; in a grid it is "yes" or "no"."""
    declared = METHODS[method].flags().get(name)
    return declared is not None and declared.type in (bool, "bool")


def _axis(method: str, text: str) -> tuple[str, list[str]]:
    """'flag=1,2' -> ('flag', ['1', '2'])."""
    name, separator, values = (part.strip() for part in text.partition("="))
    if not separator:
        refuse(f"--grid: '{text.strip()}' must be FLAG=VALUE,VALUE,...")
    chosen = METHODS[method]
    known = dict.fromkeys([*chosen.search, *chosen.flags(), *COMMON_FLAGS])
    if name not in known or name in chosen.fixed:
        refuse(f"--grid: '{name}' is no flag of {method}; it has {', '.join(known)}")
    try:
        found = [canonical(value) for value in values.split(",") if value.strip()]
    except ValueError as error:
        refuse(f"--grid: {name}: {error}")
    if not found:
        refuse(f"--grid: {name} has no value, so the grid has no runs")
    if _is_switch(method, name) and not {*found} <= {"yes", "no"}:
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
            names = ", ".join(METHODS[method].search)
            refuse(f"--grid paper is NeuroPrune's; for {method} give values of {names}")
    axes = [_axis(method, part) for part in text.split(";") if part.strip()]
    if not axes:
        refuse("--grid has no runs; as in --grid 'attn-penalty-weight=1e-4,1e-3'")
    names = [name for name, _ in axes]
    if len({*names}) < len(names):
        refuse(f"--grid names {max(names, key=names.count)} twice")
    return [dict(zip(names, values)) for values in itertools.product(*(v for _, v in axes))]


def script_options(run: Run) -> list[str]:
    """The options of the method's script for one setting."""
    chosen = METHODS[run.method]
    plain = chosen.pruner in ("neuroprune", "l1")  # what the penalties' flags alone name
    arguments = [] if plain else ["--pruner", chosen.pruner]
    for name, value in {**chosen.fixed, **run.settings}.items():
        if not _is_switch(run.method, name):
            arguments += [f"--{name}", value]
        elif value == "yes":
            arguments.append(f"--{name}")
    return arguments


def method_of(settings: Namespace) -> str:
    """The method that trained a checkpoint.

    Args:
        settings: a checkpoint's model settings, among which fairseq keeps all flags.

    Returns:
        Key of :data:`METHODS`, or "dense" where nothing was pruned.
    """
    flags = vars(settings)
    given = {name for name, value in flags.items() if value not in (None, 0)}
    pruner = str(flags.get("pruner"))
    if pruner == "dsp":
        mode = str(flags.get("dsp_mode") or "joint")
        return "dsp" if mode == "joint" else f"dsp-{mode}"
    if pruner in METHODS and pruner != "neuroprune":
        return pruner
    if "l1_penalty_weight" in given:
        return "l1"
    if {f"target_{what}" for what in ("heads", "attn_sparsity", "mlp_sparsity", "sparsity")} & {
        name for name, value in flags.items() if value is not None
    }:
        return "neuroprune-target"
    penalised = {"attn_penalty_weight", "mlp_penalty_weight"} & given
    if penalised and flags.get("penalty_solver") == "proximal":
        return "neuroprune-proximal"
    merges = flags.get("head_distance_threshold") is not None
    return "neuroprune" if penalised or merges else "dense"
