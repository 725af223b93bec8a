"""The expected best of so many trials against every way to draw them, and who would have won."""

from itertools import combinations, product

import numpy as np
import pytest

from harness.analysis.tuning import best_draw, expected_best, win_shares


@pytest.mark.parametrize("num", range(1, 6))
def test_the_expected_best_is_the_mean_over_every_way_to_draw(num: int) -> None:
    costs = np.array([0.4, 0.1, 0.9, 0.4, 0.25])
    with_replacement = np.mean([min(drawn) for drawn in product(costs, repeat=num)])
    without = np.mean([min(drawn) for drawn in combinations(costs, num)])
    assert expected_best(costs, num, replacement=True) == pytest.approx(with_replacement)
    assert expected_best(costs, num, replacement=False) == pytest.approx(without)


def test_a_diverged_trial_leaves_no_finite_expectation_until_it_cannot_be_the_best() -> None:
    costs = np.array([0.4, np.inf, 0.2])
    assert expected_best(costs, 1, replacement=False) == np.inf
    assert expected_best(costs, 2, replacement=False) == pytest.approx((0.4 + 0.2 + 0.2) / 3)
    assert expected_best(costs, 2, replacement=True) == np.inf, "it may be drawn twice"


def test_the_first_of_the_best_draws_is_chosen_and_none_where_all_diverged() -> None:
    assert best_draw(np.array([[1.0, 3.0], [2.0, 1.0], [1.0, 2.0], [np.inf, 0.0]])) == 1
    assert best_draw(np.full((3, 2), np.inf)) is None


def test_wins_are_shared_by_equals_and_follow_the_draws() -> None:
    alike = {"a": np.array([[1.0], [2.0]]), "b": np.array([[1.0], [2.0]]), "worse": np.array([[3.0], [3.0]])}
    assert win_shares(alike, resamples=20) == {"a": 0.5, "b": 0.5, "worse": 0.0}
    # One is better at the first draw and at nothing else, and a quarter of the resamples have two of the second.
    apart = {"narrow": np.array([[0.0], [9.0]]), "broad": np.array([[1.0], [1.0]])}
    assert win_shares(apart, resamples=4000)["narrow"] == pytest.approx(0.75, abs=0.03)
