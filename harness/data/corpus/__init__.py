"""The embedded corpus: short generated texts, addressed by split and index, with splits that cannot share a text."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from harness.data.corpus.arithmetic import problem
from harness.data.corpus.draws import CorpusDraws
from harness.data.corpus.instructions import instruction
from harness.data.corpus.stories import story

# The version of the generated texts and items, a part of every trial's identity: raised by whoever changes them on
# purpose. tests/data/test_corpus.py holds hashes of both.
CORPUS = 2
CORPUS_SEED = 20261
# The share of all prompts that each split may use, in sixteenths: a prompt's hash decides which split owns it.
BUCKETS = {"pretrain": range(8), "train": range(8, 12), "validation": range(12, 14), "test": range(14, 16)}
SPLITS = tuple(BUCKETS)
# Documents, not tokens: stories are about twice as long as the others.
KIND_SHARES = {"story": 0.5, "arithmetic": 0.2, "instruction": 0.3}


@dataclass(frozen=True)
class Piece:
    """One text of the corpus.

    Attributes:
        kind: "story", "arithmetic" or "instruction".
        text: the text, without an end-of-text mark.
    """

    kind: str
    text: str


def check_split(split: str) -> None:
    """Refuse an unknown split.

    Raises:
        ValueError: `split` is not one of `SPLITS`.
    """
    if split not in BUCKETS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")


def owned(split: str, prompt: str) -> bool:
    """Return whether a prompt (the text before its inferable end) belongs to a split."""
    return hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0] % 16 in BUCKETS[split]


def _candidate(draws: CorpusDraws) -> tuple[str, Piece]:
    """Return a prompt and the document that completes it."""
    position = draws.below(1000) / 1000
    if position < KIND_SHARES["story"]:
        tale = story(draws)
        return tale.context, Piece("story", f"{tale.context}{tale.ending}.")
    if position < KIND_SHARES["story"] + KIND_SHARES["arithmetic"]:
        task = problem(draws)
        return task.prompt, Piece("arithmetic", f"{task.prompt} {task.working}. #### {task.answer}")
    request = instruction(draws)
    return request.prompt, Piece("instruction", f"{request.prompt} {request.response}")


def document(split: str, index: int) -> Piece:
    """Return the document of a split at an index: a pure function of both and of `CORPUS_SEED`.

    No two splits share a prompt, hence no two share a document.

    Raises:
        ValueError: `split` is unknown.
    """
    check_split(split)
    draws = CorpusDraws("document", CORPUS_SEED, split, index)
    while True:
        prompt, made = _candidate(draws)
        if owned(split, prompt):
            return made


def documents(split: str, *, start: int = 0) -> Iterator[Piece]:
    """Return the endless documents of a split, from an index on.

    Raises:
        ValueError: `split` is unknown.
    """
    check_split(split)
    return _stream(split, start)


def _stream(split: str, index: int) -> Iterator[Piece]:
    while True:
        yield document(split, index)
        index += 1
