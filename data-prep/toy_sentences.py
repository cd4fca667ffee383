"""Random derivations of the toy grammar: which trees are built, and how often."""

from __future__ import annotations

import random
from collections.abc import Iterator

import toy_words as words
from toy_grammar import (
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
from toy_words import Adjective

MIN_WORDS, MAX_WORDS = 4, 16
SINGULAR = ("the", "the", "the", "a", "a", "this", "every", "no", "my", "his", "her", "our")
PLURAL = ("the", "the", "this", "all", "many", "no", "my", "his", "her", "our", "bare", "number")
ANIMATE = ("person", "person", "animal")
EVERYTHING = ("person", "animal", "thing", "text", "food", "compound", "place")
FRAMES = {
    "transitive": 10,
    "intransitive": 3,
    "motion": 3,
    "dative": 3,
    "experiencer": 2,
    "ditransitive": 3,
    "copula": 3,
}
CONJUNCTIONS = (("weil", "because"), ("obwohl", "although"), ("während", "while"))
# First person, third person, plural, English, conjunction, English conjunction.
REPORTS = (
    ("weiß", "weiß", "wissen", "know", "dass", "that"),
    ("glaube", "glaubt", "glauben", "believe", "dass", "that"),
    ("sage", "sagt", "sagen", "say", "dass", "that"),
    ("hoffe", "hofft", "hoffen", "hope", "dass", "that"),
    ("frage", "fragt", "fragen", "ask", "ob", "whether"),
)
LOCATIONS = (
    ("auf", "dat", "on"),
    ("unter", "dat", "under"),
    ("hinter", "dat", "behind"),
    ("neben", "dat", "next to"),
    ("vor", "dat", "in front of"),
)
DIRECTIONS = (("in", "acc", "into"), ("zu", "dat", "to"))


class Deriver:
    """Draws sentences from the grammar; the random generator is its only state."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def adjectives(self, kind: str) -> tuple[Adjective, ...]:
        """None, one or two different adjectives that suit the kind of noun."""
        choices = words.ADJECTIVES.get(kind, words.ADJECTIVES["thing"])
        count = self.rng.choices((0, 1, 2), (55, 40, 5))[0]
        return tuple(self.rng.sample(choices, count))

    def noun_phrase(self, kinds: tuple[str, ...], relative: float = 0.0) -> NounPhrase:
        """A noun phrase of one of `kinds`, with a relative clause in that share of cases."""
        noun = self.rng.choice(words.NOUNS[self.rng.choice(kinds)])
        if noun.kind == "mass":
            determiner = self.rng.choice(("bare", "bare", "the", "my", "her", "this"))
            return NounPhrase(noun, determiner, adjectives=self.adjectives("mass"))
        plural = self.chance(0.35)
        determiner = self.rng.choice(PLURAL if plural else SINGULAR)
        number = 0
        if determiner == "number":
            determiner = self.rng.choice(("bare", "bare", "bare", "the", "my"))
            number = self.rng.randint(2, 12) if self.chance(0.4) else self.rng.randint(13, 99)
        return NounPhrase(
            noun,
            determiner,
            plural,
            number,
            self.adjectives(noun.kind),
            self.relative(noun.kind) if self.chance(relative) else None,
        )

    def relative(self, kind: str) -> Relative:
        """A short relative clause that a noun of `kind` can head."""
        gaps = {"person": ("nom", "acc", "dat"), "animal": ("nom", "acc")}.get(kind, ("acc",))
        gap = self.rng.choice(gaps)
        frames = {"acc": ("transitive",), "dat": ("dative", "experiencer")}
        frame = self.rng.choice(frames.get(gap, ("transitive", "intransitive", "dative", "copula")))
        clause = self.clause(frame, self.rng.choice(("present", "past", "modal")), gap=(gap, kind))
        return Relative(clause, gap)

    def subject(self, relative: float = 0.0) -> NounPhrase | Pronoun:
        if self.chance(0.2):
            return Pronoun(self.rng.choice(("ich", "wir", "er", "sie", "sie+")))
        return self.noun_phrase(ANIMATE, relative)

    def clause(
        self, frame: str, tense: str, gap: tuple[str, str] = ("", ""), relative: float = 0.0
    ) -> Clause:
        """A clause of a verb frame.

        Args:
            frame: A key of FRAMES.
            tense: present, past or modal.
            gap: Case and kind of the noun that heads this clause as a relative clause.
            relative: Share of noun phrases with a relative clause of their own.
        """
        case, kind = gap
        if frame == "copula":
            return self.copula(tense, gap, relative)
        # Nobody wants to be missed or must please.
        tense = "present" if frame == "experiencer" and tense == "modal" else tense
        verbs = words.VERBS[frame]
        if case == "acc":
            verbs = [verb for verb in verbs if kind in verb.objects] or words.VERBS[frame][:1]
        verb = self.rng.choice(verbs)
        roles = {}
        for role in ("nom", "dat", "acc"):
            if role != case and role in self.needed(frame):
                roles[role] = self.argument(frame, role, verb.objects, relative)
        modal = self.rng.choice(words.MODALS) if tense == "modal" else ()
        extras = {} if case else {"time": self.time(tense), "place": self.place(frame)}
        return Clause(verb, roles, tense, modal, **extras)

    @staticmethod
    def needed(frame: str) -> tuple[str, ...]:
        """The cases a verb of this frame asks for."""
        return {
            "transitive": ("nom", "acc"),
            "dative": ("nom", "dat"),
            "experiencer": ("nom", "dat"),
            "ditransitive": ("nom", "dat", "acc"),
        }.get(frame, ("nom",))

    def argument(
        self, frame: str, role: str, objects: tuple[str, ...], relative: float
    ) -> NounPhrase | Pronoun:
        if frame == "experiencer":
            return self.subject() if role == "dat" else self.noun_phrase(objects, relative)
        if role == "nom":
            return self.subject(relative)
        return self.noun_phrase(("person",) if role == "dat" else objects, relative)

    def copula(self, tense: str, gap: tuple[str, str], relative: float) -> Clause:
        """The noun is old; there is no modal form of this one."""
        case, kind = gap
        phrase = None if case else self.noun_phrase(EVERYTHING, relative)
        kind = phrase.noun.kind if phrase else kind
        predicate = self.rng.choice(words.ADJECTIVES.get(kind, words.ADJECTIVES["thing"]))
        tense = "present" if tense == "modal" else tense
        return Clause(COPULA, {"nom": phrase} if phrase else {}, tense, predicate=predicate)

    def time(self, tense: str) -> tuple[str, str] | None:
        """An adverb that suits the tense: a fixed one, a clock time, or so many days ago."""
        if not self.chance(0.4):
            return None
        if self.chance(0.25):
            hour = self.rng.randint(2, 12)
            return f"um {words.german_number(hour)} Uhr", f"at {words.english_number(hour)} o'clock"
        if tense == "past" and self.chance(0.3):
            days = self.rng.randint(2, 99)
            return (
                f"vor {words.german_number(days)} Tagen",
                f"{words.english_number(days)} days ago",
            )
        return self.rng.choice(words.ADVERBS[tense])

    def place(self, frame: str) -> Place | None:
        """Where it happens (dative), or where to (accusative after in, dative after zu)."""
        if frame == "motion":
            return Place(*self.rng.choice(DIRECTIONS), self.noun_phrase(("place",)))
        if frame in ("experiencer", "ditransitive") or not self.chance(0.25):
            return None
        if self.chance(0.6):
            return Place("in", "dat", "in", self.noun_phrase(("place",)))
        return Place(*self.rng.choice(LOCATIONS), self.noun_phrase(("furniture",)))

    def front(self, clause: Clause) -> str:
        """What opens a main clause; an object only where its case cannot be mistaken."""
        choices = ["nom"] * 5
        choices += ["time"] * 6 if clause.time else []
        choices += ["place"] * 2 if clause.place and clause.verb.frame != "motion" else []
        choices += ["dat"] * 3 if clause.verb.frame == "experiencer" else []
        accusative = clause.roles.get("acc")
        if accusative and accusative.column == "m" and accusative.determiner != "bare":
            choices += ["acc"]
        return self.rng.choice(choices)

    def sentence(self) -> tuple[str, str]:
        """One German sentence and its English translation, of any length."""
        kind = self.rng.choices(("simple", "weil", "fronted", "report"), (60, 15, 10, 15))[0]
        tense = self.rng.choice(("present", "present", "past", "past", "modal"))
        frames = self.rng.choices(tuple(FRAMES), tuple(FRAMES.values()), k=2)
        if kind == "simple":
            return self.simple(self.clause(frames[0], tense, relative=0.25))
        inner = self.clause(frames[1], tense)
        if kind == "report":
            return self.report(inner)
        outer = self.clause(frames[0], tense)
        when = ("als" if tense == "past" else "wenn", "when")
        german, english = self.rng.choice((*CONJUNCTIONS, when))
        german_tokens = [german, *german_final(inner)]
        english_tokens = [english, *english_clause(inner)]
        if kind == "weil":
            return (
                finish([*german_main(outer), ",", *german_tokens]),
                finish([*english_clause(outer), *english_tokens]),
            )
        return (
            finish([*german_tokens, ",", *german_main(outer, "")]),
            finish([*english_tokens, ",", *english_clause(outer)]),
        )

    def simple(self, clause: Clause) -> tuple[str, str]:
        front = self.front(clause)
        return finish(german_main(clause, front)), finish(english_clause(clause, front))

    def report(self, inner: Clause) -> tuple[str, str]:
        """She believes that ...: a matrix clause without tense or objects of its own."""
        first, third, plural, english, conjunction, english_conjunction = self.rng.choice(REPORTS)
        subject = self.subject()
        while isinstance(subject, NounPhrase) and subject.noun.kind != "person":
            subject = self.subject()
        verb = plural if subject.plural else (first if subject.person == 1 else third)
        speaks = english if subject.plural or subject.person == 1 else words.english_s(english)
        return (
            finish([*subject.german("nom"), verb, ",", conjunction, *german_final(inner)]),
            finish(
                [*subject.english("subject"), speaks, english_conjunction, *english_clause(inner)]
            ),
        )


def sentence_pairs(seed: int) -> Iterator[tuple[str, str]]:
    """Endless German-English pairs; no German and no English sentence comes twice.

    Args:
        seed: Every seed gives its own, repeatable, sequence.
    """
    deriver = Deriver(random.Random(seed))
    seen_german: set[str] = set()
    seen_english: set[str] = set()
    while True:
        german, english = deriver.sentence()
        lengths = (len(german.split()), len(english.split()))
        if min(lengths) < MIN_WORDS or max(lengths) > MAX_WORDS:
            continue
        if german in seen_german or english in seen_english:
            continue
        seen_german.add(german)
        seen_english.add(english)
        yield german, english
