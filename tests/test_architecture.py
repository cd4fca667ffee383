"""The house: which way imports go, where a flag is declared, how long a file and a function is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.configs import FairseqDataclass
from fairseq.models import MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

from neuroprune_fairseq.plugin.flags import CriterionFlags, TaskFlags
from neuroprune_fairseq.plugin.registration import CRITERIONS, TASKS

ROOT = Path(__file__).resolve().parent.parent
OURS, EXPERIMENTS = "neuroprune_fairseq", "neuroprune_experiments"
SOURCES = sorted([*(ROOT / OURS).rglob("*.py"), *(ROOT / EXPERIMENTS).rglob("*.py")])
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
# A ring imports those on its left. What is at the top of the package, apart from structure,
# re-exports; scripts and experiments may import everything.
RINGS = ["files", "structure", "method", "compact", "pruners", "plugin", "export", "cli"]
# Programs do not see one another's rings: the plugin no export and no command.
HIDDEN = {("export", "plugin"), ("cli", "plugin")}
PURE = {"method", "structure", "pruners"}  # never import fairseq


def names_imported(tree):
    """Dotted names of all that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ring_of(name):
    """The ring of a module of our package by its dotted name, None outside of it."""
    parts = name.split(".")
    return parts[1] if parts[0] == OURS and len(parts) > 1 and parts[1] in RINGS else None


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", [path for path in SOURCES if ring_of(dotted(path))], ids=dotted)
def test_a_ring_imports_none_above_it(path):
    ring = ring_of(dotted(path))
    imported = {ring_of(name) for name in names_imported(TREES[path])} - {None}
    above = {other for other in imported if RINGS.index(other) > RINGS.index(ring)}
    hidden = {other for other in imported if (ring, other) in HIDDEN}
    assert not above | hidden, f"{ring} imports {above | hidden}"


def test_the_package_never_sees_the_experiments():
    for path, tree in TREES.items():
        if path.is_relative_to(ROOT / OURS):
            assert not [name for name in names_imported(tree) if name.startswith(EXPERIMENTS)], path


@pytest.mark.parametrize("ring", sorted(PURE))
def test_what_is_pure_never_imports_fairseq(ring):
    for path, tree in TREES.items():
        if ring_of(dotted(path)) == ring:
            found = [name for name in names_imported(tree) if name.split(".")[0] == "fairseq"]
            assert not found, path


# Flags.


def declared_flags():
    """Every flag of ours, by its name with dashes; what is only read of the run is none."""
    found = set()
    for flags in (TaskFlags, CriterionFlags):
        for name, field in flags.__dataclass_fields__.items():
            if "help" in field.metadata:
                alias = field.metadata.get("argparse_alias", "--" + name.replace("_", "-"))
                found |= {name.replace("_", "-"), alias.removeprefix("--")}
    return found


FLAGS = declared_flags()
SETTINGS_THAT_DECLARE = {"neuroprune.yaml"}  # the same recipe for fairseq-hydra-train


def test_a_flag_is_one_field_of_one_dataclass():
    places = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and "help" in ast.unparse(line.value or line):
                    name = line.target.id.replace("_", "-")
                    places.setdefault(name, []).append(f"{path.name}: {node.name}")
    assert {"target-heads", "dsp-mode", "near-zero", "head-merge", "pruner", "shrink"} <= FLAGS
    assert {"distill-from", "distill-weight"} <= FLAGS
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_parser_of_ours_declares_a_flag_of_the_training():
    for path in [*SOURCES, *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
                texts = [part.value for part in node.args if isinstance(part, ast.Constant)]
                declared = {str(text).removeprefix("--") for text in texts} & FLAGS
                assert not declared, f"{path.name} declares {declared}"


def keys_of(settings):
    for key, value in settings.items():
        yield str(key).replace("_", "-")
        yield from keys_of(value) if isinstance(value, dict) else ()


def test_settings_files_give_no_flag_a_value():
    settings = (path for path in ROOT.rglob("*.yaml") if not path.is_relative_to(ROOT / ".venv"))
    found = {path.name for path in settings if FLAGS & set(keys_of(yaml.safe_load(path.open())))}
    assert found <= SETTINGS_THAT_DECLARE


# Sizes.


def of_ours(cls):
    return cls.__module__.split(".")[0] == OURS


def test_under_a_class_of_fairseq_there_is_one_class_of_ours_and_its_mixin():
    registered = [*TASK_REGISTRY.values(), *CRITERION_REGISTRY.values(), *MODEL_REGISTRY.values()]
    ours = [cls for cls in registered if of_ours(cls)]
    assert len(ours) == len(TASKS) + len(CRITERIONS)
    for cls in ours:
        mixin, fairseqs = cls.__bases__
        assert mixin.__bases__ == (object,) and of_ours(mixin)
        assert not any(map(of_ours, fairseqs.__mro__))
        assert not issubclass(mixin, FairseqDataclass)


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_no_file_is_above_300_lines_and_no_function_above_50(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 50, f"{node.name} has {length} lines"
