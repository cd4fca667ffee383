"""The toy grammar: hand-worked derivations in both languages, variety, and clean splits."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "data-prep"))

import toy  # noqa: E402
import toy_words as words  # noqa: E402
from toy_grammar import (  # noqa: E402
    COPULA,
    Clause,
    NounPhrase,
    Place,
    Pronoun,
    Relative,
    english_clause,
    finish,
    german_final,
    german_main,
)
from toy_sentences import sentence_pairs  # noqa: E402

ADJECTIVES = {word.german: word for group in words.ADJECTIVES.values() for word in group}


def phrase(noun, determiner="the", *adjectives, **more):
    chosen = tuple(ADJECTIVES[adjective] for adjective in adjectives)
    return NounPhrase(words.find_noun(noun), determiner, adjectives=chosen, **more)


def verb(infinitive):
    return words.find_verb(infinitive)


def modal(infinitive):
    return next(entry for entry in words.MODALS if entry[0] == infinitive)


@pytest.mark.parametrize(
    ("made", "nom", "acc", "dat"),
    [
        (phrase("Hund", "the", "klein"), "der kleine Hund", "den kleinen Hund", "dem kleinen Hund"),
        (
            phrase("Hund", "a", "klein"),
            "ein kleiner Hund",
            "einen kleinen Hund",
            "einem kleinen Hund",
        ),
        (
            phrase("Katze", "no", "faul"),
            "keine faule Katze",
            "keine faule Katze",
            "keiner faulen Katze",
        ),
        (phrase("Kind", "my", "müde"), "mein müdes Kind", "mein müdes Kind", "meinem müden Kind"),
        (phrase("Uhr", "this", "teuer"), "diese teure Uhr", "diese teure Uhr", "dieser teuren Uhr"),
        (phrase("Junge", "every"), "jeder Junge", "jeden Jungen", "jedem Jungen"),
        (phrase("Tee", "bare", "heiß"), "heißer Tee", "heißen Tee", "heißem Tee"),
        (phrase("Milch", "bare", "kalt"), "kalte Milch", "kalte Milch", "kalter Milch"),
        (
            phrase("Hund", "bare", "alt", plural=True, number=21),
            "einundzwanzig alte Hunde",
            "einundzwanzig alte Hunde",
            "einundzwanzig alten Hunden",
        ),
        (
            phrase("Ärztin", "many", "klug", plural=True),
            "viele kluge Ärztinnen",
            "viele kluge Ärztinnen",
            "vielen klugen Ärztinnen",
        ),
    ],
)
def test_articles_adjectives_and_nouns_agree_in_gender_case_and_number(made, nom, acc, dat):
    forms = [" ".join(made.german(case)) for case in ("nom", "acc", "dat")]
    assert forms == [nom, acc, dat]


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
    assert words.german_number(number) == german
    assert words.english_number(number) == english


def test_every_number_has_its_own_word():
    assert len({words.german_number(number) for number in range(2, 100)}) == 98
    assert len({words.english_number(number) for number in range(2, 100)}) == 98


def both(clause, front="nom"):
    return finish(german_main(clause, front)), finish(english_clause(clause, front))


def test_separable_verbs_leave_their_prefix_at_the_end_and_take_it_back_when_last():
    roles = {"nom": phrase("Frau", "a", "jung"), "acc": phrase("Student")}
    clause = Clause(verb("anrufen"), roles, time=("heute", "today"))
    assert both(clause) == (
        "Eine junge Frau ruft heute den Studenten an.",
        "A young woman calls the student today.",
    )
    assert " ".join(german_final(clause)) == "eine junge Frau heute den Studenten anruft"


def test_a_fronted_adverb_puts_the_subject_behind_the_verb():
    roles = {"nom": phrase("Elefant", "a"), "acc": phrase("Apfel", "a", "frisch")}
    clause = Clause(verb("essen"), roles, "past", time=("gestern", "yesterday"))
    assert both(clause, "time") == (
        "Gestern hat ein Elefant einen frischen Apfel gegessen.",
        "Yesterday an elephant ate a fresh apple.",
    )


def test_a_fronted_object_keeps_its_case_and_english_its_order():
    roles = {"nom": phrase("Katze"), "acc": phrase("Hund")}
    assert both(Clause(verb("sehen"), roles), "acc") == (
        "Den Hund sieht die Katze.",
        "The cat sees the dog.",
    )


def test_modal_verbs_send_the_infinitive_to_the_end():
    place = Place("in", "dat", "in", phrase("Garten", "the", "dunkel"))
    roles = {"nom": Pronoun("wir"), "acc": phrase("Schlüssel", "his", plural=True)}
    clause = Clause(verb("mitbringen"), roles, "modal", modal("wollen"), place=place)
    assert both(clause) == (
        "Wir wollen seine Schlüssel im dunklen Garten mitbringen.",
        "We want to bring along his keys in the dark garden.",
    )
    final = "wir seine Schlüssel im dunklen Garten mitbringen wollen"
    assert " ".join(german_final(clause)) == final


def test_verbs_of_motion_take_sein_and_the_accusative_after_in():
    place = Place("in", "acc", "into", phrase("Wald"))
    clause = Clause(verb("weglaufen"), {"nom": Pronoun("ich")}, "past", place=place)
    assert both(clause) == (
        "Ich bin in den Wald weggelaufen.",
        "I ran away into the forest.",
    )
    to_school = Place("zu", "dat", "to", phrase("Schule"))
    clause = Clause(verb("gehen"), {"nom": Pronoun("er")}, place=to_school)
    assert both(clause) == ("Er geht zur Schule.", "He goes to the school.")


def test_dative_subjects_of_german_are_english_subjects():
    roles = {"nom": phrase("Buch", plural=True), "dat": Pronoun("ich")}
    clause = Clause(verb("gefallen"), roles, time=("heute", "today"))
    assert both(clause) == ("Die Bücher gefallen mir heute.", "I like the books today.")
    assert both(clause, "dat")[0] == "Mir gefallen die Bücher heute."
    assert " ".join(german_final(clause)) == "mir die Bücher heute gefallen"


def test_the_indirect_object_stands_before_the_direct_one():
    compound = next(noun for noun in words.NOUNS["compound"] if noun.german == "Wintermantel")
    roles = {
        "nom": phrase("Bruder", "her"),
        "dat": phrase("Nachbar", "our"),
        "acc": NounPhrase(compound, "a"),
    }
    assert both(Clause(verb("geben"), roles)) == (
        "Ihr Bruder gibt unserem Nachbarn einen Wintermantel.",
        "Her brother gives our neighbour a winter coat.",
    )


@pytest.mark.parametrize(
    ("head", "inner", "gap", "german", "english"),
    [
        (
            {"noun": "Mann"},
            Clause(verb("schlafen")),
            "nom",
            "Der Mann, der schläft, ist alt.",
            "The man who sleeps is old.",
        ),
        (
            {"noun": "Mann"},
            Clause(verb("besuchen"), {"nom": phrase("Frau")}, "past"),
            "acc",
            "Der Mann, den die Frau besucht hat, ist alt.",
            "The man whom the woman visited is old.",
        ),
        (
            {"noun": "Kind", "plural": True},
            Clause(verb("helfen"), {"nom": Pronoun("sie")}),
            "dat",
            "Die Kinder, denen sie hilft, sind alt.",
            "The children whom she helps are old.",
        ),
        (
            {"noun": "Ärztin"},
            Clause(verb("fehlen"), {"nom": phrase("Hund", "a")}),
            "dat",
            "Die Ärztin, der ein Hund fehlt, ist alt.",
            "The doctor who misses a dog is old.",
        ),
        (
            {"noun": "Uhr", "plural": True},
            Clause(verb("kaufen"), {"nom": Pronoun("sie+")}),
            "acc",
            "Die Uhren, die sie kaufen, sind alt.",
            "The clocks that they buy are old.",
        ),
        (
            {"noun": "Vogel", "plural": True},
            Clause(verb("einschlafen")),
            "nom",
            "Die Vögel, die einschlafen, sind alt.",
            "The birds that fall asleep are old.",
        ),
    ],
)
def test_relative_pronouns_agree_with_the_head_and_take_their_case_from_the_gap(
    head, inner, gap, german, english
):
    subject = phrase(relative=Relative(inner, gap), **head)
    clause = Clause(COPULA, {"nom": subject}, predicate=ADJECTIVES["alt"])
    assert both(clause) == (german, english)


@pytest.mark.parametrize(
    ("english", "form"),
    [
        ("go", "goes"),
        ("cry", "cries"),
        ("buy", "buys"),
        ("watch", "watches"),
        ("get up", "gets up"),
    ],
)
def test_english_third_person_is_spelled_right(english, form):
    assert words.english_s(english) == form


def test_each_seed_gives_one_sequence():
    first, again, other = (list(islice(sentence_pairs(seed), 200)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_thirty_thousand_pairs_are_different_on_both_sides_and_of_fair_length():
    pairs = list(islice(sentence_pairs(7), 30_000))
    assert len({german for german, _ in pairs}) == 30_000
    assert len({english for _, english in pairs}) == 30_000
    lengths = [len(side.split()) for pair in pairs for side in pair]
    assert min(lengths) >= 4
    assert max(lengths) <= 16
    stray = (" ,", ",,", "  ", " .", ",.")
    assert not [pair for pair in pairs if any(mark in side for mark in stray for side in pair)]
    assert all(side[0].isupper() and side.endswith(".") for pair in pairs for side in pair)


def test_all_words_of_the_lexicon_come_out():
    pairs = list(islice(sentence_pairs(1), 20_000))
    seen = {word.strip(".,").lower() for german, _ in pairs for word in german.split()}
    nouns = {noun.german.lower() for group in words.NOUNS.values() for noun in group}
    stems = {adjective.german.lower() for adjective in ADJECTIVES.values()}
    verbs = {verb.participle for frame in words.VERBS.values() for verb in frame}
    assert len(nouns | stems | verbs) > 300
    assert not (nouns | verbs) - seen
    assert not stems - seen


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
