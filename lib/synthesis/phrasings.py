"""The words and phrasings of which `phrases` makes questions, contexts and answers."""

NOUNS = (
    "anchor", "apricot", "badger", "barrel", "basket", "beacon", "blanket", "bottle", "bucket", "button", "cabbage",
    "candle", "carpet", "castle", "cellar", "cherry", "compass", "copper", "cottage", "curtain", "dolphin",
    "feather", "ferry", "finger", "garden", "goblet", "hammer", "harbour", "hazelnut", "helmet", "island", "jacket",
    "kettle", "ladder", "lemon", "letter", "mirror", "mountain", "mushroom", "napkin", "onion", "orchard", "paddle",
    "parrot", "pepper", "pillow", "puddle", "rabbit", "ribbon", "saddle", "shovel", "sparrow", "spider", "summer",
    "table", "thunder", "ticket", "tunnel", "turnip", "umbrella", "velvet", "village", "walnut", "whistle",
    "window", "winter",
)  # fmt: skip
NAMES = (
    "Adele", "Bruno", "Cora", "Dario", "Edith", "Felix", "Greta", "Hugo", "Ines", "Jasper", "Kira", "Linus",
    "Mabel", "Nora", "Otto", "Petra", "Quinn", "Rosa", "Stefan", "Thea",
)  # fmt: skip
TITLES = (
    "Mrs Berg",
    "Mr Alden",
    "Doctor Kane",
    "Professor Holm",
    "Captain Reyes",
    "Miss Vale",
)
MATTERS = (
    "the key of the {}",
    "a new {}",
    "the broken {}",
    "help with the {}",
    "the lost {}",
    "a later visit to the {}",
)
SUBJECTS = (
    "the {} keeper",
    "the old {}",
    "a {} from the north",
    "the captain's {}",
    "the {} below the deck",
    "every {} on board",
)
DOES = (
    "stands near the door",
    "was sold last week",
    "is covered with snow",
    "belongs to the miller",
    "needs more paint",
    "arrived before noon",
    "has been found again",
    "smells of tar",
)
UNANSWERABLE = "What does the picture of the {} show?"

# Phrasings of each kind; the words in braces are drawn by `phrases._slots`.
PHRASINGS = {
    "sum": (
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "What is the sum of {a} and {b}?",
        "A {w} weighs {a} grams and another one {b} grams. What do they weigh together?",
    ),
    "comparison": (
        "Which is larger, {a} or {b}?",
        "Which number is smaller, {a} or {b}?",
        "Which is the largest of {a}, {b} and {c}?",
        "Which is the lowest: {a}, {b} or {c}?",
    ),
    "date_order": (
        "Which date is earlier, {d} or {e}?",
        "Which date is later, {d} or {e}?",
        "Which comes first, {d} or {e}?",
        "Which is the latest of {d}, {e} and {f}?",
    ),
    "letter_count": (
        'How many times does the letter "{l}" occur in "{w}"?',
        'How often does "{l}" stand in "{w}"?',
        'How many letters "{l}" are there in "{w}"?',
    ),
    "reversal": (
        'Write the word "{w}" backwards.',
        'What is "{w}" in reverse?',
        'Give the letters of "{w}" in reverse order.',
    ),
    "alphabetical": (
        "Sort these words alphabetically: {w}, {x}, {y}.",
        "Put into alphabetical order: {w}, {x}, {y}, {z}.",
        "Sort alphabetically: {N}, {M}, {O}.",
    ),
    "conversion": (
        "Convert {a} {u} to {v}.",
        "How many {v} are in {a} {u}?",
        "Write {a} {u} in {v}.",
    ),
    "json_object": (
        "Write this record as a JSON object: name = {N}, item = {w}, count = {a}.",
        "Turn the pairs into JSON: title = The {W}, pages = {a}.",
        "Give the following as JSON: owner = {N}, animal = {x}.",
    ),
    "three_bullets": (
        "Turn this into exactly three bullet points: {w}, {x} and {y}.",
        "Write as three bullet points: a {w}, two of {x}, one {y}.",
        "Give me three bullets for the list: {N}, {M} and {O}.",
    ),
    "question": (
        "Turn this statement into a question: {S} {p}.",
        "Make a question of this: {S} {p}.",
        "Rewrite as a question: {N} says that {s} {p}.",
    ),
    "polite_note": (
        "Write a polite note to {T} from {N} asking for {m}.",
        "Write a short polite note to {T} from {N} about {m}.",
        "Write a polite note to {M} from {N} about {m}.",
    ),
    "ships_mate": (
        "You are a ship's mate. Report that {s} {p}.",
        "Speak as the mate of a ship. Report that {s} {p}.",
        "You are the mate on watch. Report that {s} {p}.",
    ),
}
CONTEXTS = {
    "replacement": (
        "The {w} {p}. In the evening the {w} {q}.",
        "A {w} and a {x} share the yard. The {w} {p}.",
        "{N} keeps a {w}. Nobody knows why the {w} {p}.",
    ),
    "date_in_context": (
        "The {w} market took place in the {x} yard on {d}, with {a} guests.",
        "Parcel {c}, one {w}, sent {d} by {N}.",
        "{N} bought the {w} for {a} crowns on {d} and sold it the year after.",
    ),
}
ABOUT = {
    "replacement": (
        'Replace every "{w}" with "{x}".',
        'Please replace "{w}" with "{x}".',
        'Replace the word "{w}" with "{x}" throughout.',
    ),
    "date_in_context": (
        "Which date is named? Give it as YYYY-MM-DD.",
        "On which date was it? Write YYYY-MM-DD.",
        "Give the date in the form YYYY-MM-DD.",
    ),
    "table_cell": (
        "What is the {c} of the {r}?",
        "Which {c} has the {r}?",
        "Look up the {c} of the {r}.",
    ),
    "record_holder": (
        "Who has the highest number?",
        "Who has the lowest number?",
        "Which one has the most?",
    ),
}

# How an explained answer begins; the result follows.
LEADS = {
    "sum": "Adding the numbers place by place gives",
    "comparison": "Compared digit by digit, the one asked for is",
    "date_order": "Compared by year, month and day, it is",
    "letter_count": "Going through the word letter by letter, the count is",
    "reversal": "Read from the last letter to the first, this is",
    "alphabetical": "Compared letter by letter, the order is",
    "conversion": "With the size of one unit in the other, this makes",
    "date_in_context": "The only date in the text, written as asked, is",
    "table_cell": "Where that row meets that column stands",
    "record_holder": "Going through all the numbers in the list, it is",
}
