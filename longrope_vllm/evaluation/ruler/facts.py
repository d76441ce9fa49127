"""Made-up documents with questions about them, for who has no file of SQuAD or HotpotQA.

In: a number of documents. Out: a ``QuestionSet``, always the same for the same number. Every name is made up, so that
no model knows an answer, and stands for one thing alone. ``people`` asks for what one document says, as SQuAD does;
``guilds`` for what two say together, as the bridge questions of HotpotQA do. They are easier than those: a document
speaks of one thing, in few forms of words. Scores on them compare with each other, not with published ones.
"""

import random
from collections.abc import Iterator
from functools import lru_cache

from longrope_vllm.evaluation.ruler.document_questions import DocumentQuestion, QuestionSet

_ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "z",
)
_SYLLABLES = [onset + vowel for onset in _ONSETS for vowel in "aeiou"]
_NAMES = len(_SYLLABLES) ** 3
_STEP = 700_001
"""Shares no factor with ``_NAMES``, so that its multiples pass through all of them."""
_TRADES = ("baker", "clockmaker", "dyer", "fisher", "gardener", "mason", "piper", "printer", "saddler", "weaver")
_NEIGHBOURS = 8
"""People of one town, who are related documents."""


@lru_cache(maxsize=4)
def people(documents: int) -> QuestionSet:
    """A document for each person, with a question that it answers; ``documents`` of them."""
    names = _names()
    rng = random.Random("people")
    texts: list[str] = []
    questions: list[DocumentQuestion] = []
    home = ""
    for number in range(documents):
        town = number // _NEIGHBOURS
        first, street, teacher, ship = (next(names) for _ in range(4))
        if number % _NEIGHBOURS == 0:
            home = next(names)
        year = rng.randint(1600, 1899)
        said = [
            f"The house of {first} stands in {street} Lane.",
            f"{first} learned the trade from {teacher} for {rng.randint(2, 9)} years.",
            f"In {year} {first} came home on a ship called {ship}.",
        ]
        rng.shuffle(said)
        texts.append(f"{first} is a {rng.choice(_TRADES)} of the town of {home}. {' '.join(said)}")
        text, answer = rng.choice(
            [
                (f"In which lane does the house of {first} stand?", street),
                (f"From whom did {first} learn the trade?", teacher),
                (f"On which ship did {first} come home?", ship),
            ]
        )
        neighbours = range(town * _NEIGHBOURS, min((town + 1) * _NEIGHBOURS, documents))
        related = tuple(other for other in neighbours if other != number)
        questions.append(DocumentQuestion(text=text, answers=(answer,), gold=(number,), related=related))
    return QuestionSet(documents=tuple(texts), questions=tuple(questions))


@lru_cache(maxsize=4)
def guilds(documents: int) -> QuestionSet:
    """Half as many pairs as ``documents``: one of a person and their guild, one of the guild and its town."""
    names = _names()
    rng = random.Random("guilds")
    texts: list[str] = []
    questions: list[DocumentQuestion] = []
    for _ in range(documents // 2):
        person, guild, town, master, river = (next(names) for _ in range(5))
        trade = rng.choice(_TRADES)
        gold = (len(texts), len(texts) + 1)
        texts += [
            f"{person}\n{person} has been a {trade} since {rng.randint(1600, 1899)} and a member of the {guild} Guild. "
            f"{person} was taught by {master}, who never joined it.",
            f"{guild} Guild\nThe {guild} Guild was founded in {rng.randint(1300, 1599)}. It has its seat in the town "
            f"of {town}, on the river {river}, and {rng.randint(20, 900)} members.",
        ]
        text = f"In which town does the guild that {person} is a member of have its seat?"
        questions.append(DocumentQuestion(text=text, answers=(town,), gold=gold))
    return QuestionSet(documents=tuple(texts), questions=tuple(questions))


def _names() -> Iterator[str]:
    """Every name of three syllables once; a syllable ends at its vowel, so that no two make the same name."""
    for number in range(1, _NAMES):
        code, name = number * _STEP % _NAMES, ""
        for _ in range(3):
            code, syllable = divmod(code, len(_SYLLABLES))
            name += _SYLLABLES[syllable]
        yield name.capitalize()
