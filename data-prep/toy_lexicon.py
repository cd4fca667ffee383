"""Words of the toy corpus: commas between entries, spaces between words, _ for a space inside."""

# Article, noun (* where it is weak: den Jungen), plural, English, its plural unless in -s.
NOUNS = {
    "person": """der Mann Männer man men, die Frau Frauen woman women, das Kind Kinder child
        children, der Junge* Jungen boy, das Mädchen Mädchen girl, der Lehrer Lehrer teacher,
        die Ärztin Ärztinnen doctor, der Nachbar* Nachbarn neighbour, die Köchin Köchinnen cook,
        der Bruder Brüder brother, der Hund Hunde dog, die Katze Katzen cat, das Pferd Pferde horse,
        der Elefant* Elefanten elephant, die Maus Mäuse mouse mice, das Schaf Schafe sheep sheep""",
    "thing": """der Koffer Koffer suitcase, die Tasche Taschen bag, das Fahrrad Fahrräder bicycle,
        der Schlüssel Schlüssel key, die Uhr Uhren clock, das Messer Messer knife knives,
        der Ball Bälle ball, die Flasche Flaschen bottle, das Hemd Hemden shirt, der Ring Ringe
        ring, das Buch Bücher book, die Zeitung Zeitungen newspaper, der Apfel Äpfel apple,
        das Ei Eier egg, der Fisch Fische fish fish, der Wintermantel Wintermäntel winter_coat,
        die Kellertür Kellertüren cellar_door, das Küchenfenster Küchenfenster kitchen_window""",
    "place": """der Garten Gärten garden, die Küche Küchen kitchen, das Haus Häuser house,
        der Park Parks park, die Stadt Städte city cities, das Dorf Dörfer village,
        die Schule Schulen school, das Büro Büros office, der Keller Keller cellar""",
}
ADJECTIVES = {
    "person": """klein small, groß big, jung young, müde tired, klug clever, mutig brave, faul lazy,
        traurig sad, krank ill, freundlich friendly, stark strong, glücklich happy, ruhig calm""",
    "thing": """schön beautiful, rot red, blau blue, grün green, gelb yellow, billig cheap,
        schmutzig dirty, rund round, leicht light, wertvoll valuable, schwer heavy, kalt cold""",
    "place": "alt old, neu new, seltsam strange, dunkel dark, leer empty, modern modern",
}
# Kinds of noun by case, prepositions where the verb has its own, and the verbs: infinitive (+
# after a separable prefix), third person, participle without that prefix (* with sein),
# English, its past unless in -ed.
VERBS = [
    ({}, """schlafen schläft geschlafen sleep slept, arbeiten arbeitet gearbeitet work,
        singen singt gesungen sing sang, lachen lacht gelacht laugh, warten wartet gewartet wait,
        auf+stehen steht *gestanden get_up got_up, an+kommen kommt *gekommen arrive arrived,
        ein+schlafen schläft *geschlafen fall_asleep fell_asleep"""),
    ({"place": "in acc into, zu dat to"}, """laufen läuft *gelaufen run ran,
        springen springt *gesprungen jump, zurück+kommen kommt *gekommen come_back came_back"""),
    ({"dat": "person"}, """helfen hilft geholfen help, folgen folgt *gefolgt follow,
        danken dankt gedankt thank, vertrauen vertraut vertraut trust,
        begegnen begegnet *begegnet meet met, zu+hören hört gehört listen_to listened_to"""),
    ({"dat": "person", "acc": "thing"}, """geben gibt gegeben give gave, zeigen zeigt gezeigt show,
        schicken schickt geschickt send sent, leihen leiht geliehen lend lent"""),
    ({"acc": "person"}, """lieben liebt geliebt love loved, kennen kennt gekannt know knew,
        besuchen besucht besucht visit, ein+laden lädt geladen invite invited,
        ab+holen holt geholt pick_up picked_up, an+rufen ruft gerufen call"""),
    ({"acc": "thing"}, """kaufen kauft gekauft buy bought, verlieren verliert verloren lose lost,
        finden findet gefunden find found, verstecken versteckt versteckt hide hid,
        weg+werfen wirft geworfen throw_away threw_away, aus+wählen wählt gewählt choose chose,
        mit+bringen bringt gebracht bring brought, an+sehen sieht gesehen look_at looked_at"""),
]  # fmt: skip
CONJUNCTIONS = "weil because, obwohl although, während while, bevor before"
# English, German stem.
SINGULAR = """the d, a ein, no kein, my mein, his sein, her ihr, our unser, this dies, that jen,
    every jed"""
PLURAL = "the d, no kein, my mein, his sein, her ihr, our unser, these dies, those jen, all all"
# Preposition, its case, English.
PLACES = "in dat in, hinter dat behind, neben dat next_to, vor dat in_front_of"
# {0} is a number, {1} its ordinal.
TIMES = {
    "present": "heute today, jetzt now, um_{0}_Uhr at_{0}_o'clock, in_{0}_Tagen in_{0}_days",
    "past": "gestern yesterday, vor_{0}_Tagen {0}_days_ago, am_{1}n_Mai on_the_{1}_of_May",
}
