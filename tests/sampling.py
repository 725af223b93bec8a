"""Which cases of a large product `make test` runs; `make test-slow` runs the others."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import pytest

SLOW = pytest.mark.slow


def sampled(cases: Iterable[Any], keep: Iterable[int]) -> list[Any]:
    """Leave the cases at these places to `make test`."""
    chosen = set(keep)
    return [_param(case if isinstance(case, tuple) else (case,), place in chosen) for place, case in enumerate(cases)]


def one_of_each(cases: Iterable[Any], kind: Callable[[Any], Hashable]) -> list[Any]:
    """Leave the first case of each kind to `make test`."""
    seen: set[Hashable] = set()
    split = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        split.append(_param(values, kind(values[0]) not in seen))
        seen.add(kind(values[0]))
    return split


def cycled(
    first: Sequence[Any], second: Sequence[Any], *, kind: Callable[[Any], Hashable] = lambda case: case
) -> list[Any]:
    """Return the whole product; slow is what gives a kind of the first axis' values a second case.

    The values of the other axis take turns, so each of them is met as well.
    """
    kinds = list(dict.fromkeys(kind(value) for value in first))
    leaders = [next(value for value in first if kind(value) == each) for each in kinds]
    return [
        _param((one, other), one in leaders and place == leaders.index(one) % len(second))
        for one in first
        for place, other in enumerate(second)
    ]


def covering(*axes: Sequence[Any]) -> list[Any]:
    """Return the whole product; cases beyond those in which every two values of two axes meet once are slow.

    Greedy and in order, so the same cases are chosen everywhere.
    """
    whole = list(itertools.product(*(range(len(axis)) for axis in axes)))
    unmet = {pair for case in whole for pair in _pairs(case)}
    chosen = set()
    while unmet:
        best = max(whole, key=lambda case: len(unmet.intersection(_pairs(case))))
        chosen.add(best)
        unmet.difference_update(_pairs(best))
    return [
        _param(tuple(axis[place] for axis, place in zip(axes, case, strict=True)), case in chosen) for case in whole
    ]


def _param(values: tuple[Any, ...], fast: bool) -> Any:
    return pytest.param(*values, marks=() if fast else SLOW)


def _pairs(case: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    return [(i, case[i], j, case[j]) for i in range(len(case)) for j in range(i)]
