"""Verifiers: strict checks of a response to an instruction, as pure functions in a registry.

A response is the generated text up to its first newline or the end of text; surrounding spaces do not count.
"""

import re
from collections.abc import Callable, Mapping

from harness.data.corpus.words import CATEGORIES

Verifier = Callable[[str, Mapping[str, object]], bool]


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def _is_sentence(text: str, subject: object) -> bool:
    """Return whether a text is one sentence of three words or more, with its full stop, about the subject."""
    return (
        text.endswith(".") and text.count(".") == 1 and len(_words(text)) > 2 and str(subject) in _words(text.lower())
    )


def repeat_word(response: str, arguments: Mapping[str, object]) -> bool:
    """The word, exactly `count` times, and nothing else."""
    return response.split() == [arguments["word"]] * int(str(arguments["count"]))


def capital_letters(response: str, arguments: Mapping[str, object]) -> bool:
    """The phrase in capital letters and nothing else."""
    return response == str(arguments["phrase"]).upper()


def list_members(response: str, arguments: Mapping[str, object]) -> bool:
    """A comma-separated list with exactly `counts[category]` different members of each category, in any order."""
    members = [member.strip() for member in response.removesuffix(".").split(",")]
    counts = arguments["counts"]
    if not isinstance(counts, Mapping) or len(members) != len(set(members)) or len(members) != sum(counts.values()):
        return False
    return all(sum(member in CATEGORIES[kind] for member in members) == count for kind, count in counts.items())


def ends_with_word(response: str, arguments: Mapping[str, object]) -> bool:
    """One sentence about `subject` whose last word is `word`."""
    return _is_sentence(response, arguments["subject"]) and _words(response)[-1] == arguments["word"]


def starts_with_word(response: str, arguments: Mapping[str, object]) -> bool:
    """One sentence about `subject` whose first word is `word`."""
    return _is_sentence(response, arguments["subject"]) and _words(response)[0] == arguments["word"]


def word_count(response: str, arguments: Mapping[str, object]) -> bool:
    """One sentence about `subject` of exactly `count` words."""
    return _is_sentence(response, arguments["subject"]) and len(_words(response)) == arguments["count"]


def without_word(response: str, arguments: Mapping[str, object]) -> bool:
    """One sentence about `subject` that does not contain `word` in any case."""
    return _is_sentence(response, arguments["subject"]) and arguments["word"] not in _words(response.lower())


def exact_answer(response: str, arguments: Mapping[str, object]) -> bool:
    """The answer and nothing else."""
    return response == arguments["answer"]


VERIFIERS: dict[str, Verifier] = {
    function.__name__: function
    for function in (
        repeat_word, capital_letters, list_members, ends_with_word, starts_with_word, word_count, without_word,
        exact_answer,
    )
}  # fmt: skip


def check(verifier: str, response: str, arguments: Mapping[str, object]) -> bool:
    """Return whether a response does what the instruction asked.

    Args:
        verifier: a name in `VERIFIERS`.
        response: the generated text; what follows its first newline or end-of-text mark is not looked at.
        arguments: what the verifier compares with, as stored in the evaluation item.

    Raises:
        ValueError: no verifier has that name.
    """
    if verifier not in VERIFIERS:
        raise ValueError(f"unknown verifier {verifier!r}; allowed: {', '.join(VERIFIERS)}")
    first_line = response.strip().split("\n")[0].split("<|endoftext|>")[0].strip()
    return VERIFIERS[verifier](first_line, arguments)
