"""neuroprune-export --shortlist and --benchmark."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from fairseq.data import Dictionary
from test_export import pruned  # noqa: F401  (a fixture)

from neuroprune_fairseq.cli.export import main

ctranslate2 = pytest.importorskip("ctranslate2")
benchmark = pytest.importorskip("neuroprune_fairseq.export.benchmark")
parity = pytest.importorskip("neuroprune_fairseq.export.parity")
shortlist = pytest.importorskip("neuroprune_fairseq.export.shortlist")

# das Haus, das Buch, ein Buch: the house, the book, a book; then a repeated word.
DAS, HAUS, BUCH, EIN = 4, 5, 6, 7
THE, HOUSE, BOOK, A = 8, 9, 10, 11
BOOKS = [
    ([DAS, HAUS], [THE, HOUSE]),
    ([DAS, BUCH], [THE, BOOK]),
    ([EIN, BUCH], [A, BOOK]),
    ([EIN, BUCH, EIN, HAUS], [A, BOOK, A, HOUSE]),
]


@pytest.fixture(autouse=True)
def _short_translations(monkeypatch):
    monkeypatch.setattr(parity, "LONGEST", 12)  # the tiny models do not know when to stop
    monkeypatch.setattr(benchmark, "LONGEST", 12)
    monkeypatch.setattr(benchmark, "ROUNDS", 2)


def arrays(pairs):
    return [tuple(np.array(side, dtype=np.int64) for side in pair) for pair in pairs]


def dictionary(words):
    found = Dictionary()
    for word in words:
        found.add_symbol(word)
    return found


def model_1(pairs, iterations):
    """IBM model 1 as its authors write it down: {(source, target): t(target | source)}."""
    pairs = [([shortlist.NOTHING, *source], target) for source, target in pairs]
    t = {(s, e): 1.0 for source, target in pairs for s in source for e in target}
    for _ in range(iterations):
        counts, totals = dict.fromkeys(t, 0.0), {}
        for source, target in pairs:
            for e in target:
                for s in source:
                    share = t[s, e] / sum(t[other, e] for other in source)
                    counts[s, e] += share
                    totals[s] = totals.get(s, 0.0) + share
        t = {(s, e): counts[s, e] / totals[s] for s, e in t}
    return t


@pytest.mark.parametrize("chunk", [1, 10, 1000])
@pytest.mark.parametrize("iterations", [1, 5])
def test_translation_probabilities_are_those_of_a_plain_loop(iterations, chunk, monkeypatch):
    monkeypatch.setattr(shortlist, "CHUNK", chunk)
    found = shortlist.translation_probabilities(arrays([*BOOKS, ([EIN], [])]), iterations)
    expected = model_1(BOOKS, iterations)
    table = {(int(s), int(e)): t for s, e, t in zip(*found)}
    assert table == pytest.approx(expected)


def test_after_many_iterations_words_mean_what_they_mean():
    source, target, t = shortlist.translation_probabilities(arrays(BOOKS), 50)
    best = {s: target[source == s][t[source == s].argmax()] for s in (DAS, HAUS, BUCH, EIN)}
    assert best == {DAS: THE, HAUS: HOUSE, BUCH: BOOK, EIN: A}


def test_a_list_holds_the_likeliest_the_token_itself_and_the_most_frequent(tmp_path):
    words = dictionary(["das", "Haus", "Buch", "ein", "the", "house", "book", "a", "Bonn"])
    source = dictionary(["das", "Haus", "Buch", "ein", *"qrst", "Bonn"])
    found = shortlist.build_shortlist(arrays(BOOKS), source, words, size=1, frequent=2)

    found.write(tmp_path, source, words)

    lines = (tmp_path / "vmap.txt").read_text(encoding="utf-8").split("\n")
    # book and a occur three times; of the others, each token that exists on both sides itself.
    assert lines[0] == "\tbook a"
    assert set(lines[1:]) == {
        *("das\tdas the", "Haus\tHaus house", "Buch\tBuch book", "ein\tein a", "Bonn\tBonn", "")
    }
    facts = json.loads((tmp_path / "shortlist.json").read_text())
    assert facts["pairs"] == 4 and facts["size"] == 1 and facts["frequent"] == 2
    assert found.of([DAS]) == {THE, DAS, BOOK, A}
    assert found.coverage(arrays([([DAS, HAUS], [THE, HOUSE, A, THE]), ([DAS], [HOUSE])])) == 0.8


def test_a_sample_is_of_different_pairs_from_all_over_and_bounded(monkeypatch):
    item = {"source": [[1, 1, 2]], "target": [[1, 2]]}
    tensors = {side: SimpleNamespace(numpy=lambda v=v: np.array(v[0])) for side, v in item.items()}
    asked = []

    class Pairs:
        def __len__(self):
            return 1000

        def __getitem__(self, number):
            asked.append(number)
            return tensors

    assert len(shortlist.sample_pairs(Pairs(), 100)) == 100
    assert len(set(asked)) == 100
    quarters = np.bincount(np.array(asked) // 250, minlength=4)
    assert quarters.min() >= 15
    monkeypatch.setattr(shortlist, "CELLS", 31)  # (2 + 1) * 1 each
    assert len(shortlist.sample_pairs(Pairs(), 100)) == 10
    assert len(shortlist.sample_pairs(Pairs(), 5000)) == 10


WORDS = [[f"w{n}" for n in range(start, start + 6)] for start in range(20)]


def translations(folder, use_vmap):
    """One by one: the engine puts together the lists of a batch."""
    engine = ctranslate2.Translator(str(folder), intra_threads=1)
    how = {"max_decoding_length": 12, "max_batch_size": 1}
    found = engine.translate_batch(WORDS, use_vmap=use_vmap, **how)
    return [each.hypotheses[0] for each in found]


def test_a_list_of_all_tokens_changes_no_translation_and_one_of_few_does(pruned, tmp_path, capsys):  # noqa: F811
    sizes = {"all": ["--shortlist-frequent", "99"], "few": ["--shortlist-frequent", "1"]}
    for name, flags in sizes.items():
        flags += ["--shortlist-size", "1", "--shortlist"]
        main([str(pruned), str(tmp_path / name), *flags, "--quantization", "int8"])
    said = capsys.readouterr().out
    assert "100.0% of reference tokens covered, 100.0% of translations the same" in said
    full = translations(tmp_path / "all", use_vmap=False)
    assert translations(tmp_path / "all", use_vmap=True) == full
    few = tmp_path / "few"
    assert translations(few, use_vmap=True) != translations(few, use_vmap=False)
    lists = dict(line.split("\t") for line in (few / "vmap.txt").read_text().splitlines())
    for found, words in zip(translations(few, use_vmap=True), WORDS):
        allowed = " ".join(lists.get(word, "") for word in ["", *words]).split()
        assert set(found) <= set(allowed)
    # The corpus turns sentences round: a token's own name is all that is needed.
    assert json.loads((few / "shortlist.json").read_text())["coverage"] == 1.0


def test_the_benchmark_measures_every_way_and_recommends_one(pruned, tmp_path, capsys):  # noqa: F811
    main([str(pruned), str(tmp_path / "out"), "--shortlist", "--benchmark"])
    said = capsys.readouterr().out
    kinds = ctranslate2.get_supported_compute_types("cpu")
    rows = [line.split() for line in said.splitlines() if line.split()[0] in kinds]
    assert {"float32"} <= {row[0] for row in rows}
    for kind in {row[0] for row in rows}:
        ways = {tuple(row[1:3]) for row in rows if row[0] == kind}
        assert ways == {("no", "5"), ("no", "1"), ("yes", "5"), ("yes", "1")}
    assert "recommended: " in said and "greedy search is" in said
    assert (tmp_path / "out" / "vmap.txt").is_file()


def way(compute_type, beam, bleu, *speeds, shortlist=False):
    return benchmark.Measured(None, compute_type, shortlist, beam, bleu, list(speeds), [1.0])


def test_what_is_fastest_for_little_bleu_is_recommended():
    found = [
        *(way("float32", 5, 30.0, 100.0), way("float32", 1, 29.9, 200.0)),
        *(way("int8", 5, 29.8, 150.0, 150.0, 900.0), way("int8", 1, 29.0, 300.0)),
        *(way("int8", 5, 29.6, 500.0, shortlist=True), way("int8", 1, 29, 600.0, shortlist=True)),
    ]
    assert benchmark.recommendation(found) == (
        "recommended: int8; greedy search is 2.0 times as fast as beam 5 for 0.80 BLEU less: "
        "it costs more than it is worth"
    )
    said = benchmark.recommendation([*found[:2], *found[4:]][:2])
    assert said.startswith("recommended: float32;") and said.endswith("0.10 BLEU less: it pays")
