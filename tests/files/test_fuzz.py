"""Files of any content: archives, parallel text and results are read, or refused in one line.

A longer run: NEUROPRUNE_FUZZ_EXAMPLES=20000 pytest tests/files/test_fuzz.py, with new examples each
time. What such runs found is kept as examples.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")
from hypothesis import example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "data-prep"))

from archive import unpack  # noqa: E402
from errors import PrepError  # noqa: E402
from parallel_text import has_text, pair_up, read_lines, write_lines  # noqa: E402

from neuroprune_experiments.figures import draw_overview, plt  # noqa: E402
from neuroprune_experiments.frontier.figures import draw_frontier, write_points  # noqa: E402
from neuroprune_experiments.frontier.table import format_tables  # noqa: E402
from neuroprune_experiments.records import (  # noqa: E402
    evaluation_rows,
    markdown,
    read_evaluations,
    read_frontier,
)
from neuroprune_fairseq.files.results import append_line  # noqa: E402
from neuroprune_fairseq.files.run_log import read_epochs, write_epoch  # noqa: E402

EXAMPLES = int(os.environ.get("NEUROPRUNE_FUZZ_EXAMPLES", "0"))
fuzz = settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, deadline=None, database=None)


def one_line(error: BaseException) -> bool:
    return len(str(error).splitlines()) == 1


# Archives.

NAMES = ["a", "b", "x/a", "../a", "/a", "x/../../b", "a/b", "\udcff", "a" * 200, ".", "..", "a\0b"]
PAX_KEYS = ["path", "size", "linkpath", "mtime", "hdrcharset", "GNU.sparse.major"]
PAX_KEYS += ["GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.name"]
PAX_VALUES = ["1", "0", "-5", "x", "a\0b/a", "../a", "9" * 30, "0,1,5,6", "BINARY", "nan"]

members = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from([b"0"] * 6 + [bytes([kind]) for kind in b"1234567LKSxgVD\0"]),
    st.one_of(st.none(), st.integers(-1, 2000), st.just(2**40)),
    st.binary(max_size=600),
    st.dictionaries(st.sampled_from(PAX_KEYS), st.sampled_from(PAX_VALUES), max_size=2),
)
compressions = st.sampled_from([None, None, gzip, bz2, lzma])
flips = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4)
cuts = st.one_of(st.none(), st.none(), st.integers(0, 2**14))


def tar_bytes(entries) -> bytes:
    """An archive of the files a and b, and of entries that need make no sense."""
    stream = io.BytesIO()
    for name, kind, size, content, pax_headers in [("a", b"0", None, b"A", {}), *entries]:
        member = tarfile.TarInfo(name)
        member.type, member.pax_headers, member.linkname = kind, pax_headers, "../up"
        member.size = len(content) if size is None else size
        try:
            stream.write(member.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))
        except (ValueError, OverflowError):
            continue
        stream.write(content + b"\0" * (-len(content) % 512))
    return stream.getvalue() + b"\0" * 1024


def damaged(content: bytes, changes, cut) -> bytes:
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[:cut])


@fuzz
@given(st.lists(members, max_size=4), flips, compressions, flips, cuts)
@example([("b", b"0", None, b"B", {"GNU.sparse.size": "a\0b/a"})], [], None, [], None)
@example([("b", b"0", None, b"B", {"GNU.sparse.map": "nan"})], [], None, [], None)
@example([("b", b"0", 2**40, b"B", {"size": "9" * 30})], [], None, [], None)
@example([("b", b"0", None, b"B", {"path": "a\0b/a"})], [], None, [], None)
@example([("b", b"0", None, b"B" * 600, {})], [], lzma, [(80, 1)], None)
def test_an_archive_gives_its_two_files_or_one_line_and_nothing_else(
    entries, changes, compression, later_changes, cut
):
    content = damaged(tar_bytes(entries), changes, None)
    if compression:
        content = compression.compress(content)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "f.tar").write_bytes(damaged(content, later_changes, cut))
        try:
            paths = unpack(folder / "f.tar", ["a", "b"], folder / "out")
        except PrepError as error:
            assert one_line(" ".join(str(error).split()))  # as the command prints it
            assert [path.name for path in folder.iterdir()] == ["f.tar"]
        else:
            assert sorted((folder / "out").iterdir()) == [paths["a"], paths["b"]]
            assert all(path.is_file() and not path.is_symlink() for path in paths.values())


# Parallel text.

lines = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.text("a\r\v\f\x1c\x85\u2028\ufeff\u200b\u2581 \0", max_size=6),
    ),
    max_size=5,
)
text_bytes = st.one_of(
    st.binary(max_size=40),
    lines.map(lambda texts: "\n".join(texts).encode("utf-8", "surrogatepass")),
)


def read_or_refuse(path: Path):
    try:
        return read_lines(path)
    except PrepError as error:
        assert one_line(error)
        return None


@fuzz
@given(text_bytes, st.booleans(), cuts)
@example("\ufeff\ufeffa".encode(), False, None)
@example("a".encode("utf-16-le"), False, None)
def test_text_is_read_the_same_again_and_by_every_reader_of_lines(content, compressed, cut):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("t.de.gz" if compressed else "t.de")
        path.write_bytes(gzip.compress(content)[:cut] if compressed else content)
        found = read_or_refuse(path)
        if found is not None:
            write_lines(Path(name) / "again.de", found)
            assert read_lines(Path(name) / "again.de") == found
            text = (Path(name) / "again.de").read_text(encoding="utf-8")
            assert text.splitlines() == found


@fuzz
@given(lines, lines)
@example(["\u200b", "a"], ["b", "c"])
@example(["\u2581"], ["b"])
def test_pairs_have_text_on_both_sides_and_none_is_lost(source, target):
    try:
        pairs = pair_up(source, target, ("s", "t"))
    except PrepError as error:
        assert one_line(error)
        return
    assert len(pairs) + pairs.dropped == len(source) == len(target)
    assert all(map(has_text, [*pairs.source, *pairs.target]))
    assert all(s in source and t in target for s, t in zip(pairs.source, pairs.target))


# Results files.

values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.integers(0, 9)
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
GOOD = {
    **{"label": "x", "method": "dsp", "settings": {"a": "1"}, "seed": 1, "bleu": 30.0},
    **{"valid_bleu": 31.0, "heads_kept": 3, "heads_total": 4, "generation_seconds": 2.0},
    **{"attn_sparsity": 0.1, "mlp_sparsity": 0.2, "total_sparsity": 0.15},
    "heads_kept_per_module": {"encoder.layers.0.self_attn": 3},
}
records = st.dictionaries(st.sampled_from([*GOOD]), values, max_size=3).map(lambda new: GOOD | new)
json_lines = st.lists(
    st.one_of(records.map(json.dumps), values.map(json.dumps), st.text(max_size=10)), max_size=3
).map(lambda texts: "\n".join(texts).encode("utf-8", "surrogatepass"))
contents = st.one_of(st.binary(max_size=30), json_lines)


def check_results_file(content: bytes, read, *uses) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "r.jsonl"
        path.write_bytes(content)
        try:
            found = read(path)
        except SystemExit as refusal:
            assert one_line(refusal) and str(path) in str(refusal)
        else:
            for use in uses:
                use(found, Path(name))


def good_with(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


@fuzz
@given(contents)
@example(b"[" * 100_000)
@example(b"9" * 5000)
@example(good_with(label="\ud800"))
@example(good_with(label=3))
@example(good_with(heads_kept=float("inf"), heads_total=float("inf")))
@example(good_with(heads_kept_per_module={}))
@example(good_with(heads_kept_per_module={"layer": 1}))
def test_a_results_file_makes_a_table_or_one_line(content):
    def table(found, _):
        assert len(markdown(evaluation_rows(found)).encode().splitlines()) == len(found) + 2

    check_results_file(content, read_evaluations, table)


@fuzz
@given(contents)
@example(good_with(settings=[]))
@example(good_with(settings={"a": {"b": []}}))
@example(good_with(total_sparsity=10**400))
def test_a_results_file_of_a_frontier_makes_tables_or_one_line(content):
    def read(path):
        return read_frontier([path])

    def points(found, folder):
        write_points(found, folder / "points.csv")

    check_results_file(content, read, lambda found, _: format_tables(found).encode(), points)


@pytest.mark.parametrize("name", ["$\\frac$", "a_b", "$", "\\", "layer", "a.b"])
def test_any_name_can_be_drawn(tmp_path, name):
    record = {**GOOD, "label": name, "method": name, "heads_kept_per_module": {name: 1}}
    draw_overview([record], tmp_path / "overview")
    draw_frontier([record], tmp_path / "frontier")
    plt.close("all")


@fuzz
@given(st.lists(records, min_size=1, max_size=3))
def test_a_line_that_is_added_is_read_again_and_spoils_none_before(new):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "r.jsonl"
        path.write_text(json.dumps(GOOD))  # no line feed at its end
        for record in new:
            append_line(path, record)
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        assert list(map(json.dumps, map(json.loads, lines))) == list(map(json.dumps, [GOOD, *new]))


EPOCHS = [{"epoch": 1, "heads_kept": 3}, {"epoch": 2, "heads_kept": 2}]


@fuzz
@given(contents)
@example(b"[" * 100_000)
@example(b"9" * 5000)
@example(b'{"epoch": "1"}')
@example("\ud800".encode("utf-8", "surrogatepass"))
def test_a_damaged_log_of_epochs_loses_none_that_are_whole(damage):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "neuroprune.jsonl"
        whole = [json.dumps(record).encode() for record in EPOCHS]
        path.write_bytes(b"\n".join([whole[0], damage, whole[1]]))
        write_epoch(path, {"epoch": 3})
        assert [record for record in read_epochs(path) if record in EPOCHS] == EPOCHS
        assert all(isinstance(record["epoch"], int) for record in read_epochs(path))
