"""Cut documents into training, validation and test text that share nothing.

Standard library only, and the same result under every version of Python.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

from harness.data.documents.read import Document

# Sixteenths of the names that each split owns, in the order in which splits choose: a text that two of them would share
# stays with the first, so that what is tested is cut least.
SHARES = {"test": range(3), "validation": range(3, 6), "train": range(6, 16)}
# Words that make two texts alike where they follow one another in both.
GRAM = 13
# Of a document's runs of so many words, the share that an earlier one of its split may have too.
MAX_SHARED = 0.5


def split_documents(documents: Iterable[Document], *, seed: int) -> dict[str, list[Document]]:
    """Give each document to a split, and leave out those that repeat another.

    Left out is a document of which a run of 13 words stands in another split, and one half of whose runs or more stand
    in earlier documents of its own.

    Args:
        documents: of all packages.
        seed: of the order and of who owns a name.

    Returns:
        Documents by split, shuffled: any first part is a sample of all packages.
    """
    shuffled = sorted((_draw(document, seed), document.text, document) for document in documents)
    splits: dict[str, list[Document]] = {}
    words: dict[str, int] = {}
    taken: set[int] = set()
    for split, sixteenths in SHARES.items():
        kept: list[Document] = []
        own: set[int] = set()
        for draw, _, document in shuffled:
            if draw[0] % 16 not in sixteenths:
                continue
            grams = _grams(document.text, words)
            if grams and not grams & taken and len(grams & own) < MAX_SHARED * len(grams):
                kept.append(document)
                own |= grams
        splits[split] = kept
        taken |= own
    return splits


def _draw(document: Document, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {document.package} {document.name}".encode()).digest()


def _grams(text: str, words: dict[str, int]) -> set[int]:
    """Return the runs of words of a text, each as a hash of the words' numbers: the same in every process."""
    numbers = [words.setdefault(word, len(words)) for word in re.findall(r"\w+", text.lower())]
    return {hash(gram) for gram in _windows(numbers)}


def _windows(numbers: Sequence[int]) -> Iterable[tuple[int, ...]]:
    return zip(*(numbers[start:] for start in range(GRAM)), strict=False)
