"""Inflection of the toy corpus: tables of endings, and the lexicon read into objects."""

from __future__ import annotations

from dataclasses import dataclass

import toy_lexicon as lexicon

GENDERS = {"der": "m", "die": "f", "das": "n"}
# One entry for each of masculine, feminine, neuter and plural.
COLUMNS = "mfnp"
ARTICLES = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den"}
RELATIVES = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem denen"}
DER_ENDINGS = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}
EIN_ENDINGS = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en"}
# The last column of the strong endings serves bare plurals, numbers and "viele".
ADJECTIVE_ENDINGS = {
    "weak": {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en"},
    "mixed": {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en"},
    "strong": {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"},
}
# name: (stem, article class, class of the adjective after it, English singular, plural)
DETERMINERS = {
    "the": ("", "der", "weak", "the", "the"),
    "this": ("dies", "der", "weak", "this", "these"),
    "every": ("jed", "der", "weak", "every", ""),
    "all": ("all", "der", "weak", "", "all"),
    "many": ("viel", "der", "strong", "", "many"),
    "a": ("ein", "ein", "mixed", "a", ""),
    "no": ("kein", "ein", "mixed", "no", "no"),
    "my": ("mein", "ein", "mixed", "my", "my"),
    "his": ("sein", "ein", "mixed", "his", "his"),
    "her": ("ihr", "ein", "mixed", "her", "her"),
    "our": ("unser", "ein", "mixed", "our", "our"),
    "bare": ("", "none", "strong", "", ""),
}
CONTRACTIONS = {
    ("in", "dem"): "im",
    ("in", "das"): "ins",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
}
ONES = "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf".split()
TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
TEENS = {16: "sechzehn", 17: "siebzehn"}
ENGLISH_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


@dataclass(frozen=True)
class Noun:
    """A noun with what its declension needs; gender is m, f or n."""

    german: str
    gender: str
    plural: str
    english: str
    english_plural: str
    kind: str
    weak: bool = False


@dataclass(frozen=True)
class Adjective:
    """An adjective: the uninflected form, the stem that takes endings, and its English."""

    german: str
    stem: str
    english: str


@dataclass(frozen=True)
class Verb:
    """A verb; `prefix` is the separable prefix or empty, `objects` the kinds of its object."""

    prefix: str
    infinitive: str
    third: str
    participle: str
    auxiliary: str
    english: str
    english_past: str
    frame: str
    objects: tuple[str, ...] = ()


def pick(table: dict[str, str], case: str, column: str) -> str:
    """Reads one ending from a table; a dash stands for none.

    Args:
        table: Case to four entries, in the order of COLUMNS.
        case: nom, acc or dat.
        column: m, f, n, or p for the plural.
    """
    return table[case].split()[COLUMNS.index(column)].replace("-", "")


def determiner(name: str, case: str, column: str) -> str:
    """The German determiner `name` (a key of DETERMINERS) in its form, "" for none."""
    stem, endings, *_ = DETERMINERS[name]
    if endings == "none":
        return ""
    if name == "the":
        return pick(ARTICLES, case, column)
    return stem + pick(DER_ENDINGS if endings == "der" else EIN_ENDINGS, case, column)


def noun_form(noun: Noun, case: str, plural: bool) -> str:
    """The German noun in its case: weak nouns and the -n of the dative plural included."""
    if not plural:
        return noun.plural if noun.weak and case != "nom" else noun.german
    needs_n = case == "dat" and noun.plural[-1] not in "ns"
    return noun.plural + ("n" if needs_n else "")


def adjective_form(adjective: Adjective, declension: str, case: str, column: str) -> str:
    """An attributive German adjective with its weak, mixed or strong ending."""
    return adjective.stem + pick(ADJECTIVE_ENDINGS[declension], case, column)


def first_person(infinitive: str) -> str:
    """First person singular: ich sehe from sehen, ich füttere from füttern."""
    stem = infinitive[:-1]
    return stem if stem.endswith("e") else stem + "e"


def german_number(number: int) -> str:
    """Spells 2 to 99; the ones come first: 21 is einundzwanzig."""
    if number <= 12:
        return ONES[number]
    if number < 20:
        return TEENS.get(number, ONES[number - 10] + "zehn")
    tens, ones = TENS[number // 10 - 2], number % 10
    return tens if ones == 0 else ("ein" if ones == 1 else ONES[ones]) + "und" + tens


def english_number(number: int) -> str:
    """Spells 2 to 99: 21 is twenty-one."""
    if number < 20:
        return ENGLISH_ONES[number]
    tens, ones = ENGLISH_TENS[number // 10 - 2], number % 10
    return tens if ones == 0 else f"{tens}-{ENGLISH_ONES[ones]}"


def english_s(word: str) -> str:
    """Adds -s as English nouns and verbs spell it, to the first of several words for verbs."""
    head, _, rest = word.partition(" ")
    if head.endswith(("s", "x", "ch", "sh", "o")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return f"{head} {rest}".strip()


def read_noun(line: str, kind: str) -> Noun:
    """Reads one line of a noun table."""
    german, plural, english = line.split("|")
    article, word = german.split()
    singular, _, irregular = english.partition("/")
    # Of several English words the last is the noun: "bread roll".
    head, last = singular.rpartition(" ")[0], singular.rpartition(" ")[2]
    plural_en = irregular or f"{head} {english_s(last)}".strip()
    return Noun(
        german=word.rstrip("*"),
        gender=GENDERS[article],
        plural=plural,
        english=singular,
        english_plural=plural_en,
        kind=kind,
        weak=word.endswith("*"),
    )


def read_verb(line: str, frame: str) -> Verb:
    """Reads one line of a verb table."""
    infinitive, third, participle, english, *objects = line.split("|")
    prefix, _, stem = infinitive.rpartition("+")
    base, past = english.split("/")
    auxiliary = "sein" if participle.startswith("ist ") else "haben"
    participle = participle.removeprefix("ist ")
    kinds = tuple(objects[0].split()) if objects else ()
    return Verb(prefix, stem, third, participle, auxiliary, base, past, frame, kinds)


def read_adjective(entry: str) -> Adjective:
    """Reads `müde/müd|tired`."""
    german, english = entry.split("|")
    form, _, stem = german.partition("/")
    return Adjective(form, stem or form, english)


def compound(modifier: str, head: Noun) -> Noun:
    """Joins a first part ("Garten|garden") and a noun; the noun gives gender and plural."""
    german, english = modifier.split("|")
    return Noun(
        german=german + head.german.lower(),
        gender=head.gender,
        plural=german + head.plural.lower(),
        english=f"{english} {head.english}",
        english_plural=f"{english} {head.english_plural}",
        kind="compound",
        weak=head.weak,
    )


def _lines(table: str) -> list[str]:
    return table.strip().splitlines()


NOUN_TABLES = {
    "person": lexicon.PERSONS,
    "animal": lexicon.ANIMALS,
    "thing": lexicon.THINGS,
    "text": lexicon.TEXTS,
    "food": lexicon.FOODS,
    "mass": lexicon.MASSES,
    "place": lexicon.PLACES,
    "furniture": lexicon.FURNITURE,
}
NOUNS = {
    kind: [read_noun(line, kind) for line in _lines(table)] for kind, table in NOUN_TABLES.items()
}
NOUNS["drink"] = [noun for noun in NOUNS["mass"] if noun.german in lexicon.DRINKS]
NOUNS["compound"] = [
    compound(modifier, read_noun(head, "thing"))
    for modifier in _lines(lexicon.COMPOUND_MODIFIERS)
    for head in _lines(lexicon.COMPOUND_HEADS)
]
VERB_TABLES = {
    "transitive": lexicon.TRANSITIVE,
    "intransitive": lexicon.INTRANSITIVE,
    "motion": lexicon.MOTION,
    "dative": lexicon.DATIVE,
    "experiencer": lexicon.EXPERIENCER,
    "ditransitive": lexicon.DITRANSITIVE,
}
VERBS = {
    frame: [read_verb(line, frame) for line in _lines(table)]
    for frame, table in VERB_TABLES.items()
}
ADJECTIVES = {
    kind: [read_adjective(entry) for group in groups for entry in lexicon.ADJECTIVES[group].split()]
    for kind, groups in lexicon.ADJECTIVE_GROUPS.items()
}
MODALS = [tuple(line.split("|")) for line in _lines(lexicon.MODALS)]
ADVERBS = {
    tense: [tuple(entry.replace("_", " ").split("|")) for entry in entries.split()]
    for tense, entries in lexicon.ADVERBS.items()
}


def find_noun(german: str) -> Noun:
    """The noun of that German singular, for examples and tests.

    Raises:
        KeyError: No table has it.
    """
    for nouns in NOUNS.values():
        for noun in nouns:
            if noun.german == german:
                return noun
    raise KeyError(german)


def find_verb(infinitive: str) -> Verb:
    """The verb of that infinitive, written with its prefix: aufstehen.

    Raises:
        KeyError: No table has it.
    """
    for verbs in VERBS.values():
        for verb in verbs:
            if verb.prefix + verb.infinitive == infinitive:
                return verb
    raise KeyError(infinitive)
