"""Run fairseq's own tests with and without this plugin imported, and compare.

    git clone https://github.com/facebookresearch/fairseq
    python benchmarks/fairseq_tests.py --fairseq fairseq --results results/fairseq-tests.json

Only the folders ``tests`` and ``examples`` of the checkout are used, so the fairseq that is
tested is the installed one. Exit status 1 when a test passes without the plugin only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from neuroprune_experiments.provenance import git_commit
from neuroprune_fairseq.files.atomic import replacing

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "neuroprune_fairseq"
FAIRSEQ = metadata.packages_distributions()["fairseq"][0]  # the name it was installed by


def run_tests(folder: Path, tests: list[str], plugin: bool) -> dict[str, str]:
    """Run pytest in a process of its own.

    Args:
        folder: holds fairseq's ``tests`` and ``examples``.
        tests: what to run, relative to it.
        plugin: import this plugin first.

    Returns:
        "passed", "skipped" or the first line of what went wrong, by test.
    """
    report = folder / f"plugin-{plugin}.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", f"--junitxml={report}"]
    command += ["-p", PLUGIN] if plugin else []
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    log = folder / f"plugin-{plugin}.log"
    with log.open("w") as output:
        subprocess.run(
            [*command, *tests], cwd=folder, env=environment, stdout=output, stderr=output
        )
    if not report.is_file():
        raise SystemExit(f"pytest wrote no report; its last words:\n{log.read_text()[-2000:]}")
    return {
        case.get("name", "?"): _outcome(case) for case in ElementTree.parse(report).iter("testcase")
    }


def _outcome(case: ElementTree.Element) -> str:
    for kind in ("failure", "error"):
        for found in case.iter(kind):
            return f"{kind}: {(found.get('message') or '').splitlines()[0][:100]}"
    return "skipped" if case.find("skipped") is not None else "passed"


def write_results(
    path: Path, passed: dict[str, int], plain: dict[str, str], ours: dict[str, str]
) -> None:
    """Write what is printed as JSON, with the command and the versions that were tested."""
    versions = {name: metadata.version(name) for name in ("torch", FAIRSEQ)}
    facts = {
        "command": shlex.join(["python", "benchmarks/fairseq_tests.py", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": git_commit(),
        "tests": len(plain),
        "passed": passed,
        "outcomes": {test: {"without": plain[test], "with": ours.get(test)} for test in plain},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fairseq", type=Path, required=True, help="a checkout of fairseq")
    parser.add_argument(
        "--tests",
        nargs="+",
        default=["tests/test_binaries.py::TestTranslation"],
        help="what pytest shall run in it (default: the tests of translation)",
    )
    parser.add_argument("--results", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if not (args.fairseq / "tests" / "test_binaries.py").is_file():
        parser.error(f"--fairseq {args.fairseq} is no checkout: it has no tests/test_binaries.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("tests", "examples"):
            (folder / part).symlink_to((args.fairseq / part).resolve())
        plain, ours = (run_tests(folder, args.tests, plugin) for plugin in (False, True))
    worse = [test for test in plain if plain[test] == "passed" != ours.get(test)]
    width = max(map(len, plain), default=0)
    for test, outcome in plain.items():
        print(f"{test:{width}}  without: {outcome}; with the plugin: {ours.get(test, 'not run')}")
    passed = {
        text: sum(outcome == "passed" for outcome in outcomes.values())
        for text, outcomes in (("without", plain), ("with", ours))
    }
    for text, number in passed.items():
        print(f"{text} the plugin: {number} of {len(plain)} pass")
    if args.results:
        write_results(args.results, passed, plain, ours)
    raise SystemExit(bool(worse))


if __name__ == "__main__":
    main()
