"""Verifiers accept the response they were made for and refuse near misses."""

from collections.abc import Mapping

import pytest

from harness.data.corpus.draws import CorpusDraws
from harness.data.corpus.instructions import KINDS, instruction
from harness.evaluate.verifiers import VERIFIERS, check

CASES: list[tuple[str, Mapping[str, object], str, str]] = [
    ("repeat_word", {"word": "river", "count": 3}, "river river river", "river river"),
    ("repeat_word", {"word": "river", "count": 2}, "river river\nriver", "river river."),
    ("capital_letters", {"phrase": "red dog"}, "RED DOG", "Red DOG"),
    ("list_members", {"counts": {"animal": 2, "food": 1}}, "dog, bread, cat", "dog, dog, bread"),
    ("list_members", {"counts": {"animal": 1}}, "dog", "bread"),
    ("list_members", {"counts": {"animal": 2}}, "dog, cat", "dog, cat, horse"),
    ("ends_with_word", {"word": "lake", "subject": "dog"}, "The dog ran to the lake.", "The dog ran to the lake"),
    ("ends_with_word", {"word": "lake", "subject": "dog"}, "The dog saw a lake.", "The cat ran to the lake."),
    ("starts_with_word", {"word": "Slowly", "subject": "dog"}, "Slowly the dog ran.", "The dog ran slowly."),
    ("word_count", {"count": 4, "subject": "dog"}, "The dog ran quickly.", "The dog ran."),
    ("without_word", {"word": "the", "subject": "dog"}, "A dog ran.", "The dog ran."),
    ("without_word", {"word": "a", "subject": "dog"}, "The dog ran.", "dog."),
    ("exact_answer", {"answer": "key dog"}, " key dog ", "dog key"),
]


@pytest.mark.parametrize(("verifier", "arguments", "right", "wrong"), CASES)
def test_right_passes_and_near_miss_fails(
    verifier: str, arguments: Mapping[str, object], right: str, wrong: str
) -> None:
    assert check(verifier, right, arguments)
    assert not check(verifier, wrong, arguments)
    assert not check(verifier, "", arguments)


def test_every_verifier_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(VERIFIERS)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_the_corpus_answers_its_own_instructions(kind: int) -> None:
    for index in range(300):
        made = instruction(CorpusDraws("verifiers", index), kind=kind)
        assert check(made.verifier, made.response, made.arguments), made
        assert not check(made.verifier, f"{made.response} {made.response}", made.arguments), made


def test_unknown_verifier_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="repeat_word"):
        check("repeat", "river", {})
