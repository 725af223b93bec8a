"""Instructions: short requests whose answers a verifier of `harness.evaluate.verifiers` can check."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.data.corpus import words
from harness.data.corpus.draws import CorpusDraws

# Subjects of sentences, animals and people alike.
SUBJECTS = (*words.ANIMALS, *words.JOBS)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A request, one right response, and how to check any response.

    Attributes:
        prompt: the request, ending in "Response:".
        response: a response that passes the check, without surrounding spaces.
        verifier: name of the check.
        arguments: the check's arguments, JSON values only.
    """

    prompt: str
    response: str
    verifier: str
    arguments: dict[str, object]


def _made(request: str, response: str, verifier: str, **arguments: object) -> Instruction:
    return Instruction(
        prompt=f"Instruction: {request} Response:", response=response, verifier=verifier, arguments=arguments
    )


def _repeat(draws: CorpusDraws) -> Instruction:
    word, count = draws.one((*words.OBJECTS, *words.PLACES, *words.FOODS, *words.ANIMALS)), draws.between(2, 5)
    verb = draws.one(("Write", "Repeat", "Say"))
    return _made(
        f'{verb} the word "{word}" {words.NUMBER_WORDS[count]} times.',
        " ".join([word] * count),
        "repeat_word",
        word=word,
        count=count,
    )


def _capitals(draws: CorpusDraws) -> Instruction:
    phrase = f"{draws.one(words.CAPITAL_FIRST)} {draws.one(words.CAPITAL_SECOND)}"
    request = draws.one((f'Write "{phrase}" in capital letters.', f'Put "{phrase}" in capitals.'))
    return _made(request, phrase.upper(), "capital_letters", phrase=phrase)


def _listing(draws: CorpusDraws) -> Instruction:
    kinds = draws.several(tuple(words.CATEGORIES), draws.between(1, 2))
    counts = {kind: draws.between(1, 3) for kind in kinds}
    asked = " and ".join(f"{words.NUMBER_WORDS[n]} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items())
    members = [word for kind, count in counts.items() for word in draws.chain(words.CATEGORIES[kind], count)]
    verb, tail = draws.one(("List", "Name", "Write down", "Give me")), draws.one(("", " please"))
    return _made(f"{verb} {asked}{tail}.", ", ".join(members), "list_members", counts=counts)


def _ends_with(draws: CorpusDraws) -> Instruction:
    subject, word = draws.one(SUBJECTS), draws.one(words.END_WORDS)
    verb, walk = draws.one(("Write", "Make")), draws.favoured("walk", subject, words.WALKS)
    adverb = draws.favoured("adverb", subject, words.ADVERBS)
    response = draws.one((f"The {subject} {walk} {adverb} to the {word}.", f"The {subject} is near the {word}."))
    return _made(
        f'{verb} a sentence about the {subject} that ends with the word "{word}".',
        response,
        "ends_with_word",
        word=word,
        subject=subject,
    )


def _starts_with(draws: CorpusDraws) -> Instruction:
    subject, word = draws.one(SUBJECTS), draws.one(words.ADVERBS).capitalize()
    verb, walk = draws.one(("Write", "Make")), draws.favoured("walk", subject, words.WALKS)
    return _made(
        f'{verb} a sentence about the {subject} that starts with the word "{word}".',
        f"{word} the {subject} {walk} to the {draws.favoured('place', subject, words.PLACES)}.",
        "starts_with_word",
        word=word,
        subject=subject,
    )


def _word_count(draws: CorpusDraws) -> Instruction:
    subject, count = draws.one(SUBJECTS), draws.between(3, 7)
    walk, adverb, place = (
        draws.favoured("walk", subject, words.WALKS),
        draws.favoured("adverb", subject, words.ADVERBS),
        draws.favoured("place", subject, words.PLACES),
    )
    adjective = draws.favoured("adjective", subject, words.ADJECTIVES)
    response = {
        3: f"The {subject} {walk}.",
        4: f"The {subject} {walk} {adverb}.",
        5: f"The {adjective} {subject} {walk} {adverb}.",
        6: f"The {subject} {walk} to the {place}.",
        7: f"The {adjective} {subject} {walk} to the {place}.",
    }[count]
    verb = draws.one(("Answer", "Write"))
    return _made(
        f"{verb} with exactly {words.NUMBER_WORDS[count]} words about the {subject}.",
        response,
        "word_count",
        count=count,
        subject=subject,
    )


def _without(draws: CorpusDraws) -> Instruction:
    subject, word = draws.one(SUBJECTS), draws.one(("the", "a", "to", "very", "was"))
    adjective, walk = (
        draws.favoured("adjective", subject, words.ADJECTIVES),
        draws.favoured("walk", subject, words.WALKS),
    )
    place = draws.favoured("place", subject, words.PLACES)
    response = {
        "the": f"A {adjective} {subject} {walk} to a {place}.",
        "a": f"The {subject} was very {adjective}.",
        "to": f"The {subject} was very {adjective}.",
        "very": f"The {subject} {walk} to the {place}.",
        "was": f"The {subject} {walk} to a {place}.",
    }[word]
    verb = draws.one(("Describe", "Write about"))
    return _made(
        f'{verb} the {subject} but do not use the word "{word}".', response, "without_word", word=word, subject=subject
    )


def _reverse(draws: CorpusDraws) -> Instruction:
    chosen = draws.chain((*words.OBJECTS[:60], *words.ANIMALS[:30], *words.COLOURS[:12]), draws.between(3, 6))
    verb = draws.one(("Write", "Say"))
    return _made(
        f"{verb} these words in reverse order: {' '.join(chosen)}.",
        " ".join(reversed(chosen)),
        "exact_answer",
        answer=" ".join(reversed(chosen)),
    )


def _choose(draws: CorpusDraws) -> Instruction:
    kinds = draws.several(tuple(words.CATEGORIES), 3)
    options = [draws.one(words.CATEGORIES[kind]) for kind in kinds]
    asked = draws.below(3)
    return _made(
        f"Which word is for {kinds[asked]}: {options[0]}, {options[1]} or {options[2]}?",
        options[asked],
        "exact_answer",
        answer=options[asked],
    )


def _pick(draws: CorpusDraws) -> Instruction:
    chosen = draws.chain((*words.OBJECTS, *words.FOODS, *words.ANIMALS), draws.between(4, 7))
    where, at = draws.one((("first", 0), ("second", 1), ("last", -1)))
    return _made(
        f"Write the {where} word of this list: {', '.join(chosen)}.", chosen[at], "exact_answer", answer=chosen[at]
    )


KINDS: tuple[Callable[[CorpusDraws], Instruction], ...] = (
    _repeat, _capitals, _listing, _ends_with, _starts_with, _word_count, _without, _reverse, _choose, _pick,
)  # fmt: skip


def instruction(draws: CorpusDraws, *, kind: int | None = None) -> Instruction:
    """Return an instruction of any kind, or of the given index into `KINDS`."""
    return (draws.one(KINDS) if kind is None else KINDS[kind])(draws)
