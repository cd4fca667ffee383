"""Words of the toy corpus: German forms that cannot be derived, beside their English.

Every table is one word a line. What follows from a rule (dative plural, weak nouns,
first person, English -s) is left to the rule, so a line holds only what must be known.
"""

from __future__ import annotations

# article noun | plural | English (/ irregular plural). A star marks the weak nouns, whose
# accusative and dative singular are spelled like the plural.
PERSONS = """
der Mann|Männer|man/men
die Frau|Frauen|woman/women
das Kind|Kinder|child/children
der Junge*|Jungen|boy
das Mädchen|Mädchen|girl
der Lehrer|Lehrer|teacher
die Ärztin|Ärztinnen|doctor
der Nachbar*|Nachbarn|neighbour
der Student*|Studenten|student
die Köchin|Köchinnen|cook
der Bäcker|Bäcker|baker
die Freundin|Freundinnen|friend
der Bruder|Brüder|brother
die Schwester|Schwestern|sister
der Vater|Väter|father
die Mutter|Mütter|mother
der Onkel|Onkel|uncle
die Tante|Tanten|aunt
der Polizist*|Polizisten|policeman/policemen
die Malerin|Malerinnen|painter
der Bauer*|Bauern|farmer
der Kunde*|Kunden|customer
die Königin|Königinnen|queen
"""

ANIMALS = """
der Hund|Hunde|dog
die Katze|Katzen|cat
das Pferd|Pferde|horse
der Vogel|Vögel|bird
die Maus|Mäuse|mouse/mice
das Schaf|Schafe|sheep/sheep
der Bär*|Bären|bear
der Elefant*|Elefanten|elephant
die Kuh|Kühe|cow
das Schwein|Schweine|pig
der Fuchs|Füchse|fox
die Ente|Enten|duck
das Huhn|Hühner|chicken
der Affe*|Affen|monkey
die Ziege|Ziegen|goat
"""

THINGS = """
der Koffer|Koffer|suitcase
die Tasche|Taschen|bag
das Fahrrad|Fahrräder|bicycle
der Schlüssel|Schlüssel|key
die Uhr|Uhren|clock
das Messer|Messer|knife/knives
der Ball|Bälle|ball
die Flasche|Flaschen|bottle
das Glas|Gläser|glass
der Löffel|Löffel|spoon
die Gabel|Gabeln|fork
das Hemd|Hemden|shirt
der Regenschirm|Regenschirme|umbrella
die Brille|Brillen|pair of glasses/pairs of glasses
das Auto|Autos|car
der Korb|Körbe|basket
die Decke|Decken|blanket
das Spielzeug|Spielzeuge|toy
der Ring|Ringe|ring
die Kamera|Kameras|camera
"""

TEXTS = """
das Buch|Bücher|book
der Brief|Briefe|letter
die Zeitung|Zeitungen|newspaper
das Gedicht|Gedichte|poem
die Geschichte|Geschichten|story
der Bericht|Berichte|report
"""

FOODS = """
der Apfel|Äpfel|apple
die Birne|Birnen|pear
das Ei|Eier|egg
der Kuchen|Kuchen|cake
die Kartoffel|Kartoffeln|potato
das Brötchen|Brötchen|bread roll
der Fisch|Fische|fish/fish
die Banane|Bananen|banana
die Tomate|Tomaten|tomato
"""

MASSES = """
das Wasser||water
die Milch||milk
der Tee||tea
der Kaffee||coffee
der Saft||juice
die Suppe||soup
das Brot||bread
der Käse||cheese
der Honig||honey
der Reis||rice
"""

PLACES = """
der Garten|Gärten|garden
die Küche|Küchen|kitchen
das Haus|Häuser|house
der Park|Parks|park
die Stadt|Städte|city
das Dorf|Dörfer|village
der Wald|Wälder|forest
die Schule|Schulen|school
das Büro|Büros|office
der Laden|Läden|shop
die Kirche|Kirchen|church
das Museum|Museen|museum
die Bibliothek|Bibliotheken|library
das Krankenhaus|Krankenhäuser|hospital
der Keller|Keller|cellar
das Zimmer|Zimmer|room
"""

FURNITURE = """
der Tisch|Tische|table
der Stuhl|Stühle|chair
das Bett|Betten|bed
der Schrank|Schränke|cupboard
die Bank|Bänke|bench
das Sofa|Sofas|sofa
der Baum|Bäume|tree
die Mauer|Mauern|wall
"""

# First part of a compound | its English.
COMPOUND_MODIFIERS = """
Garten|garden
Küchen|kitchen
Schul|school
Winter|winter
Sommer|summer
Kinder|children's
Holz|wooden
Stadt|city
Reise|travel
Büro|office
Keller|cellar
Puppen|doll's
"""

COMPOUND_HEADS = """
die Tür|Türen|door
die Lampe|Lampen|lamp
das Fenster|Fenster|window
der Mantel|Mäntel|coat
der Schuh|Schuhe|shoe
die Kiste|Kisten|box
der Teppich|Teppiche|carpet
das Bild|Bilder|picture
der Topf|Töpfe|pot
das Regal|Regale|shelf/shelves
die Mütze|Mützen|cap
das Kleid|Kleider|dress
"""

# Uninflected form (/ stem where endings need another one) | English.
ADJECTIVES = {
    "any": "klein|small groß|big alt|old neu|new schön|beautiful seltsam|strange",
    "look": "schwarz|black weiß|white braun|brown schmutzig|dirty",
    "animate": "jung|young müde/müd|tired freundlich|friendly klug|clever mutig|brave "
    "hungrig|hungry stark|strong faul|lazy traurig|sad laut|loud ruhig|calm krank|ill "
    "schnell|fast glücklich|happy nervös|nervous",
    "thing": "rot|red blau|blue grün|green gelb|yellow teuer/teur|expensive billig|cheap "
    "kaputt|broken sauber|clean leicht|light rund|round wertvoll|valuable schwer|heavy "
    "bunt|colourful",
    "food": "frisch|fresh warm|warm kalt|cold süß|sweet heiß|hot gut|good",
    "place": "dunkel/dunkl|dark leer|empty ruhig|calm modern|modern warm|warm berühmt|famous",
}
# Groups of adjectives that suit a kind of noun; a kind that is not named is a thing.
ADJECTIVE_GROUPS = {
    "person": ("any", "animate"),
    "animal": ("any", "look", "animate"),
    "thing": ("any", "look", "thing"),
    "food": ("any", "food"),
    "mass": ("food",),
    "place": ("any", "look", "place"),
}

# (prefix+)infinitive | third person | participle, "ist" where sein is the auxiliary |
# English / past tense (the first word is inflected) | kinds of object.
TRANSITIVE = """
sehen|sieht|gesehen|see/saw|person animal thing text food compound
suchen|sucht|gesucht|look for/looked for|person animal thing text compound
finden|findet|gefunden|find/found|person animal thing text food compound
malen|malt|gemalt|paint/painted|person animal thing food compound
lieben|liebt|geliebt|love/loved|person animal
vergessen|vergisst|vergessen|forget/forgot|person thing text compound
fotografieren|fotografiert|fotografiert|photograph/photographed|person animal thing compound
kaufen|kauft|gekauft|buy/bought|animal thing text food compound mass
verkaufen|verkauft|verkauft|sell/sold|animal thing text food compound mass
tragen|trägt|getragen|carry/carried|thing food compound
reparieren|repariert|repariert|repair/repaired|thing compound
besuchen|besucht|besucht|visit/visited|person
fragen|fragt|gefragt|ask/asked|person
kennen|kennt|gekannt|know/knew|person animal
brauchen|braucht|gebraucht|need/needed|thing text compound mass
waschen|wäscht|gewaschen|wash/washed|animal thing compound
verlieren|verliert|verloren|lose/lost|thing text compound
verstecken|versteckt|versteckt|hide/hid|thing text food compound
füttern|füttert|gefüttert|feed/fed|animal
jagen|jagt|gejagt|chase/chased|animal
essen|isst|gegessen|eat/ate|food
trinken|trinkt|getrunken|drink/drank|drink
kochen|kocht|gekocht|cook/cooked|food
lesen|liest|gelesen|read/read|text
schreiben|schreibt|geschrieben|write/wrote|text
mit+bringen|bringt|mitgebracht|bring along/brought along|thing text food compound mass
ab+holen|holt|abgeholt|pick up/picked up|person thing compound
an+rufen|ruft|angerufen|call/called|person
ein+laden|lädt|eingeladen|invite/invited|person
weg+werfen|wirft|weggeworfen|throw away/threw away|thing text food compound
an+sehen|sieht|angesehen|look at/looked at|person animal thing compound
aus+wählen|wählt|ausgewählt|choose/chose|thing text food compound
vor+bereiten|bereitet|vorbereitet|prepare/prepared|food
"""

INTRANSITIVE = """
schlafen|schläft|geschlafen|sleep/slept
arbeiten|arbeitet|gearbeitet|work/worked
warten|wartet|gewartet|wait/waited
singen|singt|gesungen|sing/sang
tanzen|tanzt|getanzt|dance/danced
lachen|lacht|gelacht|laugh/laughed
weinen|weint|geweint|cry/cried
spielen|spielt|gespielt|play/played
auf+stehen|steht|ist aufgestanden|get up/got up
ein+schlafen|schläft|ist eingeschlafen|fall asleep/fell asleep
auf+wachen|wacht|ist aufgewacht|wake up/woke up
an+kommen|kommt|ist angekommen|arrive/arrived
"""

# These take a direction: into, to.
MOTION = """
gehen|geht|ist gegangen|go/went
laufen|läuft|ist gelaufen|run/ran
kommen|kommt|ist gekommen|come/came
springen|springt|ist gesprungen|jump/jumped
zurück+kommen|kommt|ist zurückgekommen|come back/came back
weg+laufen|läuft|ist weggelaufen|run away/ran away
"""

# These take a dative object.
DATIVE = """
helfen|hilft|geholfen|help/helped
folgen|folgt|ist gefolgt|follow/followed
danken|dankt|gedankt|thank/thanked
antworten|antwortet|geantwortet|answer/answered
vertrauen|vertraut|vertraut|trust/trusted
begegnen|begegnet|ist begegnet|meet/met
zu+hören|hört|zugehört|listen to/listened to
zu+sehen|sieht|zugesehen|watch/watched
"""

# The German dative is the English subject: das Buch gefällt der Frau, the woman likes the book.
EXPERIENCER = """
gefallen|gefällt|gefallen|like/liked|thing text animal compound
fehlen|fehlt|gefehlt|miss/missed|person animal thing
"""

DITRANSITIVE = """
geben|gibt|gegeben|give/gave|thing text food compound
zeigen|zeigt|gezeigt|show/showed|animal thing text compound
schicken|schickt|geschickt|send/sent|text thing compound
bringen|bringt|gebracht|bring/brought|thing text food compound
leihen|leiht|geliehen|lend/lent|thing text compound
"""

# infinitive | first and third person | English with he | English with they
MODALS = """
können|kann|can|can
müssen|muss|must|must
wollen|will|wants to|want to
sollen|soll|should|should
dürfen|darf|may|may
"""

# German | English
ADVERBS = {
    "present": "heute|today jetzt|now jeden_Tag|every_day am_Morgen|in_the_morning",
    "past": "gestern|yesterday letzte_Woche|last_week am_Montag|on_Monday am_Freitag|on_Friday",
    "modal": "morgen|tomorrow heute_Abend|this_evening nächste_Woche|next_week",
}
DRINKS = ("Wasser", "Milch", "Tee", "Kaffee", "Saft")
