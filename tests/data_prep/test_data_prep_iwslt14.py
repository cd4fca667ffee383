"""IWSLT14: known lines through a hand-made archive, unsafe archives, and the real test sets."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "data-prep"))

import iwslt14  # noqa: E402
from archive import unpack  # noqa: E402
from errors import PrepError  # noqa: E402

SAMPLE = ROOT.parent / "shared/data/iwslt14-sample/de-en.tgz"
LANGUAGES = ("de", "en")


def training_text(language):
    """47 sentences that fit, a title and a description; two pairs of bad length; metadata."""
    lines = [
        f"<url>http://example.org/{language}</url>",
        "<keywords>nothing</keywords>",
        "<talkid>7</talkid>",
        f"<title>{language} title here</title>",
        f"<description>{language} H&amp;M, described</description>",
    ]
    lines += [f"{language} sentence number {number} ." for number in range(1, 48)]
    lines += ["one two three" if language == "de" else "one two three four five"]
    lines += [" ".join(["word"] * 176)]
    return "".join(f"{line}\n" for line in lines)


def evaluation_set(name, language, sentences=2):
    segments = "".join(
        f'<seg id="{number}">  {name} {language} it\u2019s &lt;{number}&gt;  </seg>\n'
        for number in range(1, sentences + 1)
    )
    head = '<?xml version="1.0"?>\n<doc docid="1">\n<title>A & B</title>\n<talkid>7</talkid>\n'
    return f"{head}{segments}</doc>\n"


def archive_files():
    files = {f"de-en/train.tags.de-en.{lang}": training_text(lang) for lang in LANGUAGES}
    for name in iwslt14.TEST_SETS:
        for lang in LANGUAGES:
            files[f"de-en/IWSLT14.{name}.de-en.{lang}.xml"] = evaluation_set(name, lang)
    return files


def make_archive(path, files, extra=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)
    return path


@pytest.fixture
def splits(tmp_path):
    archive = make_archive(tmp_path / "de-en.tgz", archive_files())
    return iwslt14.read_archive(archive, LANGUAGES, tmp_path / "scratch")


def test_metadata_goes_titles_stay_and_bad_lengths_are_filtered(splits):
    text, notes = splits
    # 2 + 47 + 2 lines are sentences; the last two have a ratio of 5/3 and 176 tokens.
    assert len(text["train"]) + len(text["valid"]) == 49
    assert notes == {"pairs_filtered_by_length": 2}
    assert text["train"].source[:2] == ["de title here", "de H&M, described"]
    assert text["train"].target[2] == "en sentence number 1 ."


def test_every_23rd_pair_goes_to_validation(splits):
    text, _ = splits
    # Pairs 23 and 46; a title and a description come before the first sentence.
    assert text["valid"].source == ["de sentence number 21 .", "de sentence number 44 ."]
    assert text["valid"].target == ["en sentence number 21 .", "en sentence number 44 ."]


def test_the_five_sets_are_the_test_set_in_their_usual_order(splits):
    text, _ = splits
    order = ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"]
    expected = [f"{name} en it's <{number}>" for name in order for number in (1, 2)]
    assert text["test"].target == expected


def test_the_other_direction_swaps_the_sides(tmp_path, splits):
    swapped, _ = iwslt14.read_archive(tmp_path / "de-en.tgz", ("en", "de"), tmp_path / "back")
    assert swapped["test"].source == splits[0]["test"].target


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("Das ist's, oder?", 6),
        ("3,5 Millionen -- U.S. 22-year-old", 5),
        ('"Nein ..."', 4),
        ("", 0),
    ],
)
def test_tokens_are_words_numbers_and_signs(line, tokens):
    assert iwslt14.count_tokens(line) == tokens


def test_length_limits_are_inclusive():
    assert iwslt14.fits("a b", "a b c")
    assert not iwslt14.fits("a b", "a b c d")
    assert iwslt14.fits("a " * 175, "a " * 175)
    assert not iwslt14.fits("a " * 176, "a " * 176)
    assert not iwslt14.fits("", "")


def test_entity_declarations_are_not_expanded():
    bomb = ['<!DOCTYPE x [<!ENTITY a "aaaa">]>', '<seg id="1"> &a;&amp;lt; </seg>']
    assert iwslt14.segments(bomb) == ["&a;&lt;"]


@pytest.mark.parametrize("damage", ["cut", "text", "bits"])
def test_damaged_archives_get_one_line(tmp_path, damage):
    archive = make_archive(tmp_path / "de-en.tgz", archive_files())
    whole = archive.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    content = {"cut": whole[: len(whole) // 2], "text": b"<html>404</html>", "bits": bytes(broken)}
    archive.write_bytes(content[damage])
    with pytest.raises(PrepError, match=r"de-en\.tgz: not a whole tar archive"):
        iwslt14.read_archive(archive, LANGUAGES, tmp_path / "scratch")


def test_an_archive_without_a_set_or_with_uneven_sets_names_the_files(tmp_path):
    files = archive_files()
    name = "de-en/IWSLT14.TED.tst2011.de-en.en.xml"
    files[name] = evaluation_set("TED.tst2011", "en", sentences=3)
    archive = make_archive(tmp_path / "uneven.tgz", files)
    with pytest.raises(PrepError, match=r"tst2011\.de-en\.de\.xml has 2 .*en\.xml has 3"):
        iwslt14.read_archive(archive, LANGUAGES, tmp_path / "one")
    del files[name]
    archive = make_archive(tmp_path / "short.tgz", files)
    with pytest.raises(PrepError, match=r"short\.tgz: has no file IWSLT14\.TED\.tst2011"):
        iwslt14.read_archive(archive, LANGUAGES, tmp_path / "two")


def test_unpacking_takes_only_what_is_wanted(tmp_path):
    archive = make_archive(tmp_path / "a.tgz", {"x/one": "1", "x/two": "2"})
    paths = unpack(archive, ["two"], tmp_path / "there")
    assert paths["two"].read_text() == "2"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["two"]


@pytest.mark.skipif(not SAMPLE.is_file(), reason="no IWSLT14 sample beside the checkout")
def test_the_real_test_sets_are_6750_pairs_and_validation_is_every_23rd(tmp_path):
    text, notes = iwslt14.read_archive(SAMPLE, LANGUAGES, tmp_path)
    assert len(text["test"]) == 6750
    assert text["test"].dropped == 0
    with gzip.open(SAMPLE) as stream, tarfile.open(fileobj=stream) as tar:
        sides = []
        for language in LANGUAGES:
            raw = tar.extractfile(f"de-en/train.tags.de-en.{language}").read().decode()
            sides.append(iwslt14.training_lines(raw.split("\n")[:-1]))
    kept = [pair for pair in zip(*sides) if iwslt14.fits(*pair)]
    assert len(sides[0]) - len(kept) == notes["pairs_filtered_by_length"]
    valid = [pair for number, pair in enumerate(kept, start=1) if number % 23 == 0]
    assert list(zip(text["valid"].source, text["valid"].target)) == valid
    assert len(text["train"]) == len(kept) - len(valid)
