"""Trees of the toy corpus and their German and English readings.

One tree is read twice. German orders words by the kind of clause: the finite verb second,
first after a subordinate clause, last inside one; infinitives, participles and separable
prefixes go to the end. English keeps subject, verb, objects, place, time.

Example:
    >>> clause = Clause(find_verb("anrufen"), {"nom": Pronoun("er"), "acc": NounPhrase(frau)})
    >>> " ".join(german_main(clause)), " ".join(english_clause(clause))
    ('er ruft die Frau an', 'he calls the woman')
"""

from __future__ import annotations

from dataclasses import dataclass, field

import toy_words as words
from toy_words import Adjective, Noun, Verb

# German nominative: (dative, English subject, English object, person, plural)
PRONOUNS = {
    "ich": ("mir", "I", "me", 1, False),
    "wir": ("uns", "we", "us", 1, True),
    "er": ("ihm", "he", "him", 3, False),
    "sie": ("ihr", "she", "her", 3, False),
    "sie+": ("ihnen", "they", "them", 3, True),
}
# infinitive: first person singular, third person singular, plural
AUXILIARIES = {
    "haben": ("habe", "hat", "haben"),
    "sein": ("bin", "ist", "sind"),
    "war": ("war", "war", "waren"),
}
BE = {"present": ("am", "is", "are"), "past": ("was", "was", "were")}
COPULA = Verb("", "sein", "ist", "", "", "be", "", "copula")


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun, named by its German nominative; `sie+` is the plural."""

    name: str

    @property
    def person(self) -> int:
        return PRONOUNS[self.name][3]

    @property
    def plural(self) -> bool:
        return PRONOUNS[self.name][4]

    def german(self, case: str) -> list[str]:
        return [self.name.rstrip("+") if case == "nom" else PRONOUNS[self.name][0]]

    def english(self, role: str) -> list[str]:
        return [PRONOUNS[self.name][1 if role == "subject" else 2]]


@dataclass(frozen=True)
class NounPhrase:
    """A noun with a determiner (a key of DETERMINERS), a number word, adjectives, a clause."""

    noun: Noun
    determiner: str = "the"
    plural: bool = False
    number: int = 0
    adjectives: tuple[Adjective, ...] = ()
    relative: Relative | None = None
    person: int = 3

    @property
    def column(self) -> str:
        return "p" if self.plural else self.noun.gender

    def german(self, case: str) -> list[str]:
        declension = words.DETERMINERS[self.determiner][2]
        tokens = [words.determiner(self.determiner, case, self.column)]
        tokens += [words.german_number(self.number)] if self.number else []
        for adjective in self.adjectives:
            tokens.append(words.adjective_form(adjective, declension, case, self.column))
        tokens.append(words.noun_form(self.noun, case, self.plural))
        tokens += self.relative.german(self.column) if self.relative else []
        return [token for token in tokens if token]

    def english(self, role: str = "object") -> list[str]:
        article = words.DETERMINERS[self.determiner][4 if self.plural else 3]
        tokens = [words.english_number(self.number)] if self.number else []
        tokens += [adjective.english for adjective in self.adjectives]
        tokens.append(self.noun.english_plural if self.plural else self.noun.english)
        if article == "a" and tokens[0][0] in "aeiou":
            article = "an"
        relative = self.relative.english(self.noun.kind, self.plural) if self.relative else []
        return [article, *tokens, *relative] if article else [*tokens, *relative]


@dataclass(frozen=True)
class Place:
    """A prepositional phrase: the German preposition, its case, the English one, the noun."""

    preposition: str
    case: str
    english_preposition: str
    phrase: NounPhrase

    def german(self) -> list[str]:
        phrase = self.phrase.german(self.case)
        short = words.CONTRACTIONS.get((self.preposition, phrase[0]))
        return [short, *phrase[1:]] if short else [self.preposition, *phrase]

    def english(self) -> list[str]:
        return [self.english_preposition, *self.phrase.english()]


@dataclass(frozen=True)
class Clause:
    """A verb, its noun phrases by German case (nom, dat, acc), a tense, and what is free.

    `tense` is present, past (German perfect, or "war") or modal; `modal` a line of MODALS;
    `time` a pair (German, English); `predicate` the adjective of the copula.
    """

    verb: Verb
    roles: dict[str, NounPhrase | Pronoun] = field(default_factory=dict)
    tense: str = "present"
    modal: tuple[str, ...] = ()
    time: tuple[str, str] | None = None
    place: Place | None = None
    predicate: Adjective | None = None


@dataclass(frozen=True)
class Relative:
    """A relative clause: `gap` is the case of the pronoun; that role is left out inside."""

    clause: Clause
    gap: str

    def german(self, column: str) -> list[str]:
        pronoun = words.pick(words.RELATIVES, self.gap, column)
        clause = with_silent_head(self.clause, self.gap, column == "p")
        return [",", pronoun, *german_final(clause, self.gap), ","]

    def english(self, kind: str, plural: bool) -> list[str]:
        is_subject = self.gap == english_roles(self.clause.verb)[0]
        pronoun = ("who" if is_subject else "whom") if kind == "person" else "that"
        clause = with_silent_head(self.clause, self.gap, plural)
        return [pronoun, *english_clause(clause, gap=self.gap)]


def with_silent_head(clause: Clause, gap: str, plural: bool) -> Clause:
    """Fills the gap with a third-person pronoun that is not spoken but that verbs agree with."""
    silent = Pronoun("sie+" if plural else "er")
    return Clause(**{**vars(clause), "roles": {**clause.roles, gap: silent}})


def english_roles(verb: Verb) -> tuple[str, ...]:
    """The German cases in the order English speaks them; the first is the subject."""
    return ("dat", "nom") if verb.frame == "experiencer" else ("nom", "dat", "acc")


def _form(forms: tuple[str, ...], person: int, plural: bool) -> str:
    return forms[2] if plural else forms[0 if person == 1 else 1]


def german_verb(clause: Clause, person: int, plural: bool) -> tuple[str, str, str]:
    """The finite verb, the separable prefix, and the infinitive or participle ("" for none)."""
    verb = clause.verb
    if verb.frame == "copula":
        return (
            _form(AUXILIARIES["war" if clause.tense == "past" else "sein"], person, plural),
            "",
            "",
        )
    if clause.tense == "past":
        return _form(AUXILIARIES[verb.auxiliary], person, plural), "", verb.participle
    if clause.tense == "modal":
        infinitive, singular = clause.modal[:2]
        return infinitive if plural else singular, "", verb.prefix + verb.infinitive
    forms = (words.first_person(verb.infinitive), verb.third, verb.infinitive)
    return _form(forms, person, plural), verb.prefix, ""


def english_verb(clause: Clause, person: int, plural: bool) -> str:
    """The English verb: present, past, or a modal with the infinitive."""
    verb, third = clause.verb, person == 3 and not plural
    if verb.frame == "copula":
        return _form(BE[clause.tense], person, plural)
    if clause.tense == "past":
        return verb.english_past
    if clause.tense == "modal":
        return f"{clause.modal[2 if third else 3]} {verb.english}"
    return words.english_s(verb.english) if third else verb.english


def _german_parts(clause: Clause, skip: str) -> list[list[str]]:
    """The words between the brackets of the German clause; pronouns come first."""
    parts: list[tuple[int, list[str]]] = []
    ranks = {"nom": 0, "dat": 2, "acc": 3}
    for case, rank in ranks.items():
        phrase = clause.roles.get(case)
        if phrase is not None and case != skip:
            is_pronoun = isinstance(phrase, Pronoun)
            parts.append((rank - 10 if is_pronoun else rank, phrase.german(case)))
    if clause.time and skip != "time":
        parts.append((1, clause.time[0].split()))
    if clause.place and skip != "place":
        parts.append((4, clause.place.german()))
    if clause.predicate:
        parts.append((5, [clause.predicate.german]))
    return [part for _, part in sorted(parts, key=lambda part: part[0])]


def _subject_number(clause: Clause) -> tuple[int, bool]:
    subject = clause.roles["nom"]
    return subject.person, subject.plural


def german_final(clause: Clause, skip: str = "") -> list[str]:
    """The clause with its finite verb last and the separable prefix joined to it.

    Args:
        clause: The clause; it has a nominative.
        skip: The role that a relative pronoun has already named.
    """
    finite, prefix, rest = german_verb(clause, *_subject_number(clause))
    tokens = [token for part in _german_parts(clause, skip) for token in part]
    return [*tokens, *([rest] if rest else []), prefix + finite]


def german_main(clause: Clause, front: str = "nom") -> list[str]:
    """The clause with its finite verb second, or first where `front` is "".

    Args:
        clause: The clause; it has a nominative.
        front: What stands before the verb: nom, dat, acc, time or place.
    """
    finite, prefix, rest = german_verb(clause, *_subject_number(clause))
    tokens = [token for part in _german_parts(clause, front) for token in part]
    return [*_front(clause, front), finite, *tokens, *[end for end in (rest, prefix) if end]]


def _front(clause: Clause, front: str) -> list[str]:
    if front == "time":
        return clause.time[0].split()
    if front == "place":
        return clause.place.german()
    return clause.roles[front].german(front) if front else []


def english_clause(clause: Clause, front: str = "", gap: str = "") -> list[str]:
    """Subject, verb, objects, place, time.

    Args:
        clause: The clause; it has all the roles its verb needs.
        front: time or place moves that to the start, anything else changes nothing.
        gap: The role that a relative pronoun has already named.
    """
    subject_role, *object_roles = english_roles(clause.verb)
    subject = clause.roles[subject_role]
    tokens = [] if gap == subject_role else subject.english("subject")
    tokens += english_verb(clause, subject.person, subject.plural).split()
    for role in object_roles:
        if role in clause.roles and role != gap:
            tokens += clause.roles[role].english("object")
    tokens += [clause.predicate.english] if clause.predicate else []
    place = clause.place.english() if clause.place else []
    time = clause.time[1].split() if clause.time else []
    if front == "time":
        return [*time, *tokens, *place]
    return [*place, *tokens, *time] if front == "place" else [*tokens, *place, *time]


def finish(tokens: list[str]) -> str:
    """Joins words to a sentence: a capital, no space before commas, a full stop."""
    text = " ".join(tokens).replace(" ,", ",").replace(",,", ",").rstrip(",") + "."
    return text[0].upper() + text[1:]
