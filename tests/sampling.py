"""Which cases of a large product `make test` runs; `make test-slow` runs the others."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

SLOW = pytest.mark.slow


def sampled(cases: Iterable[Any], keep: Iterable[int]) -> list[Any]:
    """Leave the cases at these places to `make test`."""
    chosen = set(keep)
    return [_param(case if isinstance(case, tuple) else (case,), place in chosen) for place, case in enumerate(cases)]


def cycled(first: Sequence[Any], *others: Sequence[Any]) -> list[Any]:
    """Return the whole product; slow is what gives a value of the first axis a second case.

    The values of the other axes take turns, so each of them is met as well.
    """
    return [
        _param(
            (first[places[0]], *(axis[at] for axis, at in zip(others, places[1:], strict=True))),
            all(at == places[0] % len(axis) for axis, at in zip(others, places[1:], strict=True)),
        )
        for places in itertools.product(*(range(len(axis)) for axis in (first, *others)))
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
