"""German and English that translate each other: a clause is drawn once and ordered twice.

A clause has parts (nom, dat, acc, time, place and those of its verb), each in German and English.
"""

from __future__ import annotations

import re
from random import Random

import toy_lexicon as lexicon
from num2words import num2words

# By case, for masculine, feminine, neuter and plural.
ARTICLES = {"nom": "der die das die", "dat": "dem der dem den", "acc": "den die das die"}
ENDINGS = {"nom": "er e es e", "dat": "em er em en", "acc": "en e es e"}
# German main clauses behind their first part, German subordinate clauses, English clauses.
MAIN, FINAL = " finite nom time dat acc place rest prefix", "nom time dat acc place rest last"
ENGLISH = " nom finite dat acc place time"
SUBJECT = {"nom": "person"}


def read(table: str, suffix: str = "") -> list[list[str]]:
    """Entries of the lexicon; `suffix` makes the fifth word of those that lack it."""
    rows = [entry.split() for entry in table.split(",")]
    return [[*row, row[3] + suffix][:5] if suffix else row for row in rows]


NOUNS = {kind: read(table, "s") for kind, table in lexicon.NOUNS.items()}
VERBS = [(SUBJECT | kinds, verb) for kinds, table in lexicon.VERBS for verb in read(table, "ed")]
ADJECTIVES = {kind: read(table) for kind, table in lexicon.ADJECTIVES.items()}
TIMES = {tense: read(table) for tense, table in lexicon.TIMES.items()}
DETERMINERS = [dict(read(table)) for table in (lexicon.SINGULAR, lexicon.PLURAL)]


def spell(number: int, to: str = "cardinal") -> list[str]:
    """The number in German and in English, "" for 0."""
    return [num2words(number, lang=language, to=to) if number else "" for language in ("de", "en")]


def decline(noun: list[str], determiner: str, adjectives=(), plural=False, count=0) -> dict:
    """A noun phrase by case, in German and English; the words are entries of the lexicon."""
    gender, singular, german_plural, *english = noun
    column = 3 if plural else "der die das".split().index(gender)
    stem, numbers, phrase = DETERMINERS[plural].get(determiner, ""), spell(count), {}
    for case in ARTICLES:
        article, ending = (table[case].split()[column] for table in (ARTICLES, ENDINGS))
        bare = not stem or stem.endswith(("ein", "r")) and case != "dat" and ending in ("er", "es")
        word = article if stem == "d" else stem if bare else stem + ending
        if word != stem:  # The determiner shows the case, so the adjective need not.
            ending = "e" if column < 3 and article == ARTICLES["nom"].split()[column] else "en"
        inflected = [re.sub("e$|e(?=l$)", "", adjective) + ending for adjective, _ in adjectives]
        form = german_plural if plural or "*" in singular and case != "nom" else singular.strip("*")
        form += "n" if plural and case == "dat" and form[-1] not in "ns" else ""
        words = [determiner, numbers[1], *(word for _, word in adjectives), english[plural]]
        phrase[case] = " ".join([word, numbers[0], *inflected, form]), " ".join(words)
    return phrase


def conjugate(verb: list[str], plural: bool, tense: str) -> dict:
    """The parts of a verb in German and English; the German past is the perfect."""
    (prefix, _, infinitive), (third, participle, english, past) = verb[0].rpartition("+"), verb[1:]
    finite, rest = infinitive if plural else third, ""
    if tense == "past":
        auxiliary = ("ist", "sind") if "*" in participle else ("hat", "haben")
        finite, english = auxiliary[plural], past
        rest, prefix = prefix + participle.strip("*"), ""
    elif not plural:
        english = re.sub("(?=_|$)", "s", english, count=1)
    german = {"finite": finite, "rest": rest, "prefix": prefix, "last": prefix + finite}
    return {name: (word, english) for name, word in german.items()}


def order(clause: dict, names: str, side: int) -> str:
    """The parts that a clause has, in German (0) or English (1), in the order of the names."""
    return " ".join(clause[name][side] for name in dict.fromkeys(names.split()) if name in clause)


def finish(text: str) -> str:
    """Makes a sentence: spaces, commas, im and zum, an, a capital, a full stop."""
    text = re.sub("( ,)+", ",", " ".join(text.replace("_", " ").split())).rstrip(",")
    text = re.sub(r"\ba (?=[aeiou])", "an ", re.sub(r"\b(i|zu)n? dem ", r"\1m ", text))
    return text[0].upper() + text[1:] + "."


def draw_phrase(rng: Random, kind: str, relative: float = 0.0) -> tuple[dict, bool]:
    """A noun phrase, with a relative clause in that share of cases, and whether it is plural."""
    noun, plural = rng.choice(NOUNS[kind]), rng.random() < 0.35
    count = rng.randint(2, 99) if plural and rng.random() < 0.2 else 0
    determiner = "" if count else rng.choice(["the", "the", *DETERMINERS[plural]])
    adjectives = rng.sample(ADJECTIVES[kind], rng.choice((0, 0, 0, 1, 1)))
    phrase = decline(noun, determiner, adjectives, plural, count)
    if rng.random() < relative:
        options = [(gap, verb) for verb in VERBS for gap in ARTICLES if verb[0].get(gap) == kind]
        gap, verb = rng.choice(options)
        clause = draw_clause(rng, rng.choice(("present", "past")), verb, gap, plural)
        pronoun = decline(noun, "the", plural=plural)[gap][0].split()[0]
        pronoun = "denen" if plural and gap == "dat" else pronoun
        added = f", {pronoun} {order(clause, FINAL, 0)} ,", f"that {order(clause, ENGLISH, 1)}"
        phrase = {case: tuple(map(" ".join, zip(words, added))) for case, words in phrase.items()}
    return phrase, plural


def draw_clause(rng: Random, tense: str, verb=None, gap="", plural=False, relative=0.0) -> dict:
    """A clause of a verb, or of any; without the case `gap`, whose noun `plural` tells of."""
    kinds, forms = verb or rng.choice(VERBS)
    clause = {}
    for case in [case for case in ARTICLES if case in kinds and case != gap]:
        phrase, is_plural = draw_phrase(rng, kinds[case], relative)
        clause[case] = phrase[case]
        plural = is_plural if case == "nom" else plural
    if places := kinds.get("place") or lexicon.PLACES * (not gap and rng.random() < 0.25):
        german, case, english = rng.choice(read(places))
        noun = draw_phrase(rng, "place")[0][case]
        clause["place"] = f"{german} {noun[0]}", f"{english} {noun[1]}"
    if not gap and rng.random() < 0.4:
        number = rng.randint(2, 24)
        times = zip(rng.choice(TIMES[tense]), spell(number), spell(number, "ordinal"))
        clause["time"] = tuple(time.format(*words) for time, *words in times)
    return clause | conjugate(forms, plural, tense)


def draw_sentence(rng: Random) -> tuple[str, str]:
    """A sentence of one or two clauses in German and English, of any length."""
    tense, share = rng.choice(("present", "past")), rng.random()
    clause = draw_clause(rng, tense, relative=0.25 if share < 0.6 else 0)
    front = rng.choice([name for name in ("nom", "nom", "dat", "time", "time") if name in clause])
    main = order(clause, front + MAIN, 0), order(clause, front * (front == "time") + ENGLISH, 1)
    if share < 0.6:
        return finish(main[0]), finish(main[1])
    inner, conjunction = draw_clause(rng, tense), rng.choice(read(lexicon.CONJUNCTIONS))
    german = f"{conjunction[0]} {order(inner, FINAL, 0)}"
    english = f"{conjunction[1]} {order(inner, ENGLISH, 1)}"
    if share < 0.85:
        return finish(f"{main[0]} , {german}"), finish(f"{main[1]} {english}")
    main = order(clause, MAIN, 0), order(clause, ENGLISH, 1)
    return finish(f"{german} , {main[0]}"), finish(f"{english} , {main[1]}")
