"""The report in a real browser, where there is one: it loads without an error, at any width."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from neuroprune_experiments.report.command import main
from tests.report_models import epoch_record, write_checkpoint, write_lines

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --enable-logging=stderr
--dump-dom""".split()

# Errors show on the console; what sticks out of the page shows as a width.
PROBE = """<script>
document.querySelectorAll("details").forEach((details) => { details.open = true; });
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const fonts = [...document.querySelectorAll("svg text")].map((text) => {
  const scale = text.getCTM();
  return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b);
});
document.body.dataset.wide = wide;
document.body.dataset.smallest = Math.min(...fonts);
</script></body>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")


def dump(page, folder, width):
    """The page's document after it has loaded, and what the browser said."""
    command = [BROWSER, *FLAGS, f"--window-size={width},900", f"--user-data-dir={folder / 'user'}"]
    command.append(page.as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_checkpoint(folder / "np" / "checkpoint_last.pt", "neuroprune", (0, 1, 2))
    write_lines(folder / "np" / "neuroprune.jsonl", [epoch_record(1, 15, {"0": 3})])
    main([str(folder / "np" / "checkpoint_last.pt"), "--out", str(folder / "report")])
    return folder / "report" / "index.html"


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_loads_without_an_error_and_fits_with_legible_text(page, tmp_path, width):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    document, errors = dump(probed, tmp_path, width)
    assert errors == []
    assert document.count("<section ") == 6
    assert 'data-wide="0"' in document
    smallest = float(document.split('data-smallest="')[1].split('"')[0])
    assert smallest >= 11  # CSS pixels


def test_a_broken_page_would_be_noticed(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!DOCTYPE html><html><body><script>nothing.there();</script></body></html>")
    assert dump(page, tmp_path, 800)[1]
