"""Draws: the few random choices the corpus needs, built on `random.Random.random` alone.

Only the sequence of `random()` is promised to stay the same across Python versions; `choice`, `sample` and
`shuffle` are not, so the corpus never calls them.
"""

import functools
import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
# The exponent that makes early words more frequent, as words are in a language.
SKEW = 2.0


def digest(*seed_words: object) -> int:
    """Return a number in [0, 2**64) that only equal words share, the same in every process."""
    raw = hashlib.blake2b("\x1f".join(map(str, seed_words)).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "big")


@functools.cache
def fact(*words: object) -> int:
    """Return the `digest` of some words of the world; there are few, and every text asks for many."""
    return digest(*words)


class CorpusDraws:
    """A stream of reproducible choices, addressed by the words of a seed.

    Args:
        seed_words: anything printable; equal words give equal streams.
    """

    def __init__(self, *seed_words: object) -> None:
        self._random = random.Random(digest(*seed_words))  # noqa: S311 - choices, not secrets

    def chance(self, probability: float) -> bool:
        """Return True with the given probability in [0, 1]."""
        return self._random.random() < probability

    def below(self, limit: int) -> int:
        """Return an integer drawn uniformly from 0 to limit - 1."""
        return int(self._random.random() * limit)

    def between(self, low: int, high: int) -> int:
        """Return an integer drawn uniformly from low to high, both included."""
        return low + self.below(high - low + 1)

    def one(self, options: Sequence[T]) -> T:
        """Return one option, all equally likely."""
        return options[self.below(len(options))]

    def skewed(self, options: Sequence[T]) -> T:
        """Return one option, early ones more often, as words are in a language."""
        return options[int(len(options) * self._random.random() ** SKEW)]

    def favoured(self, topic: str, subject: str, options: Sequence[T]) -> T:
        """Return the option a subject favours in 90% of the draws, its second choice in 7%, any option otherwise.

        The favourites are facts of the world: the same in every text, learnt only by reading enough of them. Whoever
        has read enough is nearly certain of them, any other is at a loss: there the entropies of two models part.
        """
        position = self._random.random()
        if position < 0.97:
            return options[fact(topic, subject, position < 0.9) % len(options)]
        return self.skewed(options)

    def several(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different options in random order.

        Raises:
            ValueError: there are fewer than `count` options.
        """
        pool = _enough(options, count)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]

    def chain(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different options, a skewed draw first, each followed by its own successor in 90%.

        Successors are facts of the world, as favourites are. One that is drawn already gives way to any other.

        Raises:
            ValueError: there are fewer than `count` options.
        """
        pool = _enough(options, count)
        chosen = [self.skewed(options)]
        pool.remove(chosen[0])
        while len(chosen) < count:
            successor = options[fact("next", chosen[-1]) % len(options)]
            known = successor in pool and self.chance(0.9)
            chosen.append(pool.pop(pool.index(successor) if known else self.below(len(pool))))
        return chosen


def _enough(options: Sequence[T], count: int) -> list[T]:
    if count > len(options):
        raise ValueError(f"cannot draw {count} different options from {len(options)}")
    return list(options)
