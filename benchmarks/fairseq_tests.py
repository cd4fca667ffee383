"""Run fairseq's own tests with and without this plugin imported, and compare.

    git clone https://github.com/facebookresearch/fairseq
    python benchmarks/fairseq_tests.py --fairseq fairseq

Only the folders ``tests`` and ``examples`` of the checkout are used, so the fairseq that is
tested is the installed one. Exit status 1 when a test passes without the plugin only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "neuroprune_fairseq"


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
    for text, outcomes in (("without", plain), ("with", ours)):
        passed = sum(outcome == "passed" for outcome in outcomes.values())
        print(f"{text} the plugin: {passed} of {len(outcomes)} pass")
    raise SystemExit(bool(worse))


if __name__ == "__main__":
    main()
