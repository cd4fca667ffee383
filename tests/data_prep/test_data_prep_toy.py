"""The toy grammar: hand-worked derivations in both languages, variety, and clean splits."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "data-prep"))

import toy  # noqa: E402
import toy_grammar as grammar  # noqa: E402
from toy_grammar import ENGLISH, FINAL, MAIN, conjugate, decline, finish, order  # noqa: E402

NOUNS = {entry[1].strip("*"): entry for nouns in grammar.NOUNS.values() for entry in nouns}
VERBS = {verb[0].replace("+", ""): verb for _, verb in grammar.VERBS}
ADJECTIVES = {entry[0]: entry for entries in grammar.ADJECTIVES.values() for entry in entries}


def phrase(noun, determiner="the", *adjectives, **more):
    return decline(NOUNS[noun], determiner, [ADJECTIVES[word] for word in adjectives], **more)


def clause(verb, tense="present", plural=False, **parts):
    return {**parts, **conjugate(VERBS[verb], plural, tense)}


def both(parts, front="nom", english_front=""):
    german = order(parts, front + MAIN, 0)
    return finish(german), finish(order(parts, english_front + ENGLISH, 1))


def final(parts):
    return " ".join(order(parts, FINAL, 0).split())


@pytest.mark.parametrize(
    ("made", "english", "nom", "acc", "dat"),
    [
        (
            phrase("Hund", "the", "klein"),
            "the small dog",
            *("der kleine Hund", "den kleinen Hund", "dem kleinen Hund"),
        ),
        (
            phrase("Hund", "a", "klein"),
            "a small dog",
            *("ein kleiner Hund", "einen kleinen Hund", "einem kleinen Hund"),
        ),
        (
            phrase("Katze", "no", "faul"),
            "no lazy cat",
            *("keine faule Katze", "keine faule Katze", "keiner faulen Katze"),
        ),
        (
            phrase("Kind", "my", "müde"),
            "my tired child",
            *("mein müdes Kind", "mein müdes Kind", "meinem müden Kind"),
        ),
        (
            phrase("Keller", "this", "dunkel"),
            "this dark cellar",
            *("dieser dunkle Keller", "diesen dunklen Keller", "diesem dunklen Keller"),
        ),
        (phrase("Junge", "every"), "every boy", "jeder Junge", "jeden Jungen", "jedem Jungen"),
        (phrase("Uhr", "our"), "our clock", "unsere Uhr", "unsere Uhr", "unserer Uhr"),
        (
            phrase("Messer", "those", "rot", plural=True),
            "those red knives",
            *("jene roten Messer", "jene roten Messer", "jenen roten Messern"),
        ),
        (
            phrase("Hund", "", "klein", plural=True, count=21),
            "twenty-one small dogs",
            *(
                "einundzwanzig kleine Hunde",
                "einundzwanzig kleine Hunde",
                "einundzwanzig kleinen Hunden",
            ),
        ),
        (
            phrase("Ärztin", "all", "klug", plural=True),
            "all clever doctors",
            *("alle klugen Ärztinnen", "alle klugen Ärztinnen", "allen klugen Ärztinnen"),
        ),
    ],
)
def test_articles_adjectives_and_nouns_agree_in_gender_case_and_number(
    made, english, nom, acc, dat
):
    forms = {case: [" ".join(side.split()) for side in made[case]] for case in made}
    assert forms == {"nom": [nom, english], "acc": [acc, english], "dat": [dat, english]}


@pytest.mark.parametrize(
    ("number", "german", "english"),
    [
        (2, "zwei", "two"),
        (11, "elf", "eleven"),
        (16, "sechzehn", "sixteen"),
        (17, "siebzehn", "seventeen"),
        (21, "einundzwanzig", "twenty-one"),
        (30, "dreißig", "thirty"),
        (76, "sechsundsiebzig", "seventy-six"),
        (99, "neunundneunzig", "ninety-nine"),
    ],
)
def test_german_numbers_say_the_ones_first(number, german, english):
    assert grammar.spell(number) == [german, english]


def test_every_number_has_its_own_word():
    spelled = [grammar.spell(number) for number in range(2, 100)]
    assert [len(set(words)) for words in zip(*spelled)] == [98, 98]


def test_separable_verbs_leave_their_prefix_at_the_end_and_take_it_back_when_last():
    people = {"nom": phrase("Frau", "a", "jung")["nom"], "acc": phrase("Nachbar")["acc"]}
    parts = clause("anrufen", **people, time=("heute", "today"))
    assert both(parts) == (
        "Eine junge Frau ruft heute den Nachbarn an.",
        "A young woman calls the neighbour today.",
    )
    assert final(parts) == "eine junge Frau heute den Nachbarn anruft"
    parts = clause("anrufen", "past", **people)
    assert final(parts) == "eine junge Frau den Nachbarn angerufen hat"


def test_a_fronted_adverb_puts_the_subject_behind_the_verb():
    things = {"nom": phrase("Elefant", "a")["nom"], "acc": phrase("Apfel", "a", "rot")["acc"]}
    parts = clause("finden", "past", **things, time=("gestern", "yesterday"))
    assert both(parts, "time", "time") == (
        "Gestern hat ein Elefant einen roten Apfel gefunden.",
        "Yesterday an elephant found a red apple.",
    )


def test_a_fronted_object_keeps_its_case_and_english_its_order():
    dog = phrase("Hund", plural=True)["dat"]
    parts = clause("helfen", nom=phrase("Katze")["nom"], dat=dog)
    assert both(parts, "dat") == ("Den Hunden hilft die Katze.", "The cat helps the dogs.")


def test_verbs_of_motion_take_sein_and_the_accusative_after_in():
    forest = phrase("Garten", "the", "dunkel")
    into = ("in " + forest["acc"][0], "into " + forest["acc"][1])
    mice = phrase("Maus", plural=True)["nom"]
    assert both(clause("laufen", "past", True, nom=mice, place=into)) == (
        "Die Mäuse sind in den dunklen Garten gelaufen.",
        "The mice ran into the dark garden.",
    )
    inside = ("in " + forest["dat"][0], "in " + forest["dat"][1])
    assert both(clause("schlafen", plural=True, nom=mice, place=inside)) == (
        "Die Mäuse schlafen im dunklen Garten.",
        "The mice sleep in the dark garden.",
    )


def test_the_indirect_object_stands_before_the_direct_one():
    parts = clause(
        "geben",
        acc=phrase("Wintermantel", "a")["acc"],
        dat=phrase("Nachbar", "our")["dat"],
        nom=phrase("Bruder", "her")["nom"],
    )
    assert both(parts) == (
        "Ihr Bruder gibt unserem Nachbarn einen Wintermantel.",
        "Her brother gives our neighbour a winter coat.",
    )


@pytest.mark.parametrize(
    ("verb", "present", "past"),
    [
        ("arbeiten", "works", "worked"),
        ("einladen", "invites", "invited"),
        ("zuhören", "listens_to", "listened_to"),
        ("aufstehen", "gets_up", "got_up"),
    ],
)
def test_english_verbs_are_spelled_right(verb, present, past):
    spoken = [conjugate(VERBS[verb], False, tense)["finite"][1] for tense in ("present", "past")]
    assert spoken == [present, past]


@pytest.fixture(scope="module")
def corpus():
    """Thirty thousand pairs."""
    pairs = toy.toy_splits(7, {"train": 29_800, "valid": 100, "test": 100})
    return [pair for split in pairs.values() for pair in zip(split.source, split.target)]


def test_thirty_thousand_pairs_are_different_on_both_sides_and_of_fair_length(corpus):
    assert len({german for german, _ in corpus}) == 30_000
    assert len({english for _, english in corpus}) == 30_000
    lengths = [len(side.split()) for pair in corpus for side in pair]
    assert min(lengths) >= 4
    assert max(lengths) <= 16
    stray = (" ,", ",,", "  ", " .", ",.", "_", "*", "+", "{")
    assert not [pair for pair in corpus if any(mark in side for mark in stray for side in pair)]
    assert all(side[0].isupper() and side.endswith(".") for pair in corpus for side in pair)


def test_all_words_of_the_lexicon_come_out(corpus):
    seen = {word.strip(".,") for german, _ in corpus for word in german.split()}
    seen |= {word.lower() for word in seen}
    participles = {verb[0].rpartition("+")[0] + verb[2].strip("*") for verb in VERBS.values()}
    # With an ending a stem may lose its e: müde, dunkel.
    inflected = {re.sub("e$|e(?=l$)", "", word) + "en" for word in ADJECTIVES}
    numbers = {grammar.spell(number)[0] for number in range(2, 100)}
    expected = NOUNS.keys() | participles | inflected | numbers
    assert len(expected) > 200
    assert not expected - seen


STEMS = [verb[0].rpartition("+")[::2] for verb in VERBS.values()]
PLURAL = {"haben", "sind"} | {infinitive for _, infinitive in STEMS}
SINGULAR = {"hat", "ist"} | {verb[1] for verb in VERBS.values()}
# In subordinate clauses, where the prefix is back.
PLURAL_LAST = PLURAL | {prefix + infinitive for prefix, infinitive in STEMS}
SINGULAR_LAST = SINGULAR | {prefix + verb[1] for (prefix, _), verb in zip(STEMS, VERBS.values())}


def test_subordinate_clauses_end_with_their_verb_and_put_the_verb_first_behind_them(corpus):
    conjunctions = "weil|obwohl|während|bevor"
    behind = [re.search(rf", (?:{conjunctions}) (.*)\.", german) for german, _ in corpus]
    before = [re.match(rf"(?:{conjunctions}) (.*), (\w+) ", german, re.I) for german, _ in corpus]
    behind, before = list(filter(None, behind)), list(filter(None, before))
    assert min(len(behind), len(before)) > 2000
    assert all(found[1].split()[-1] in SINGULAR_LAST | PLURAL_LAST for found in behind + before)
    assert all(found[2] in SINGULAR | PLURAL for found in before)


def test_verbs_agree_with_their_subject(corpus):
    opening = re.compile(r"(Alle|Jedes) (\w+) (\w+) ")
    found = [match.groups() for german, _ in corpus if (match := opening.match(german))]
    forms = {"Alle": PLURAL, "Jedes": SINGULAR}
    whole = [(word, verb) for word, noun, verb in found if noun[0].isupper()]
    assert {word for word, _ in whole} == forms.keys()
    assert all(verb in forms[word] for word, verb in whole)


PRONOUNS = {"der": ("der", "den", "dem"), "die": ("die", "der"), "das": ("das", "dem")}


def test_relative_pronouns_agree_with_their_noun_and_verbs_end_their_clauses(corpus):
    allowed = {}
    for article, singular, plural, *_ in NOUNS.values():
        for form in {singular.strip("*"), plural if "*" in singular else singular}:
            allowed.setdefault(form, set()).update(PRONOUNS[article])
        for form in (plural, plural + "n"):
            allowed.setdefault(form, set()).update(("die", "denen"))
    relative = re.compile(r"(\w+), (der|die|das|den|dem|denen) ([^,.]*)[,.]")
    found = [match for german, _ in corpus for match in relative.findall(german)]
    assert {pronoun for _, pronoun, _ in found} == {"der", "die", "das", "den", "dem", "denen"}
    assert all(pronoun in allowed[noun] for noun, pronoun, _ in found)
    assert all(words.split()[-1] in SINGULAR_LAST | PLURAL_LAST for *_, words in found)
    # Where the clause is its verb alone, the pronoun is the subject.
    alone = [(pronoun, verb) for _, pronoun, verb in found if " " not in verb]
    assert {"der", "das", "die"} == {pronoun for pronoun, _ in alone}
    assert all(verb in SINGULAR_LAST for pronoun, verb in alone if pronoun != "die")
    plural = re.compile("Alle (\\w+), die (\\w+),")
    verbs = [match[2] for german, _ in corpus if (match := plural.match(german))]
    assert verbs
    assert all(verb in PLURAL_LAST for verb in verbs)


def test_each_seed_gives_one_sequence():
    sizes = {"train": 200, "valid": 1, "test": 1}
    first, again, other = (toy.toy_splits(seed, sizes) for seed in (1, 1, 2))
    assert first == again
    assert first["train"] != other["train"]


def test_splits_share_no_sentence_and_test_does_not_depend_on_the_size_of_train():
    small = toy.toy_splits(5, {"train": 500, "valid": 50, "test": 60})
    large = toy.toy_splits(5, {"train": 900, "valid": 50, "test": 60})
    assert large["test"] == small["test"]
    assert large["valid"] == small["valid"]
    for side in ("source", "target"):
        sets = [set(getattr(large[split], side)) for split in ("train", "valid", "test")]
        assert [len(lines) for lines in sets] == [900, 50, 60]
        assert len(set.union(*sets)) == 1010


def test_the_other_direction_swaps_the_sides():
    sizes = {"train": 5, "valid": 2, "test": 2}
    forth, back = toy.toy_splits(1, sizes), toy.toy_splits(1, sizes, flip=True)
    assert forth["train"].source == back["train"].target
    assert forth["train"].target == back["train"].source
