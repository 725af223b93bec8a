"""The moderated variance: against Smyth's formulas, known priors and what must not change."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, polygamma
from spreads import spread_of

from harness.analysis.inference import Spread, tail
from harness.analysis.moderation import Prior, prior_of


def drawn(num: int, *, factor: float, df: float, seeds: int = 3) -> Spread:
    """Spreads whose true factors are drawn from a prior, each estimated from few seeds."""
    draw = np.random.default_rng([num, seeds])
    true = factor * df / draw.chisquare(df, num)
    single = draw.uniform(0.5, 2.0, num)
    return spread_of(single * true * draw.chisquare(seeds - 1, num) / (seeds - 1), seeds - 1, 0.1, 500, single=single)


@pytest.mark.parametrize(("df", "factor"), [(1.0, 2.0), (2.0, 4.0)])
def test_a_known_prior_is_recovered(df: float, factor: float) -> None:
    prior = prior_of(drawn(20_000, factor=factor, df=df))
    # The factors of 1 in 100 that are floored at chance move it a little.
    assert prior.df == pytest.approx(df, rel=0.1)
    assert prior.factor == pytest.approx(factor, rel=0.1)
    assert prior.num == 20_000


def test_a_prior_counts_for_three_degrees_of_freedom_at_most_and_a_factor_of_one_at_least() -> None:
    prior = prior_of(drawn(5000, factor=0.2, df=50.0))
    assert (prior.df, prior.factor) == (3.0, 1.0)


def test_the_estimator_solves_the_equations_of_moments() -> None:
    spread = drawn(40, factor=3.0, df=1.5, seeds=4)
    prior = prior_of(spread)
    floored = np.maximum(spread.seeds / spread.single, stats.chi2.ppf(0.01, 3) / 3)
    logs = np.log(floored) - digamma(1.5) + np.log(1.5)
    assert polygamma(1, prior.df / 2) == pytest.approx(logs.var(ddof=1) - polygamma(1, 1.5))
    assert np.log(prior.factor) == pytest.approx(logs.mean() + digamma(prior.df / 2) - np.log(prior.df / 2))


def test_a_variance_is_drawn_to_the_prior_and_never_below_that_of_single_answers() -> None:
    spread = spread_of(np.array([0.001, 4.0, 100.0]), 2, 0.1, 500, single=np.ones(3))
    moderated = Prior(factor=2.0, df=3.0, num=3).moderate(spread)
    assert moderated.seeds == pytest.approx([(6 + 2 * stats.chi2.ppf(0.01, 2) / 2) / 5, (6 + 8) / 5, (6 + 200) / 5])
    # 2 * 3 / (1 + 2 / 4): three comparisons with one baseline are worth two.
    assert moderated.seed_df == pytest.approx([4.0] * 3)
    calm = Prior(factor=1.0, df=3.0, num=3).moderate(spread)
    assert calm.seeds[0] == 1.0
    assert (moderated.items == spread.items).all()


def test_one_comparison_is_left_to_its_own_seeds() -> None:
    spread = spread_of(4.0, 2, 0.0, 0, single=1.0)
    prior = prior_of(spread)
    assert prior == Prior(factor=1.0, df=0.0, num=1)
    moderated = prior.moderate(spread)
    assert (moderated.seeds[0], moderated.seed_df[0]) == (4.0, 2.0)
    assert tail(np.array([5.0]), moderated) == tail(np.array([5.0]), spread)


@pytest.mark.parametrize(
    "spread",
    [
        pytest.param(spread_of(np.array([1.0, 9.0]), 1, 0.1, 500, single=1.0), id="two seeds"),
        pytest.param(spread_of(np.array([1.0, 9.0]), 2, 0.0, 0), id="no items"),
        pytest.param(spread_of(np.array([np.nan, np.nan]), 2, 0.1, 500, single=1.0), id="diverged"),
        pytest.param(spread_of(np.zeros(2), 0, 0.1, 500), id="no seeds"),
    ],
)
def test_what_says_too_little_is_left_as_it_is(spread: Spread) -> None:
    prior = prior_of(spread)
    assert prior == Prior()
    moderated = Prior(factor=2.0, df=3.0, num=9).moderate(spread)
    np.testing.assert_array_equal(moderated.seeds, spread.seeds)
    np.testing.assert_array_equal(moderated.seed_df, spread.seed_df)


def test_seeds_of_different_number_are_moderated_side_by_side() -> None:
    spread = spread_of(np.array([2.0, 2.0, 5.0]), 2, 0.1, 500, single=1.0)
    spread.seed_df[2] = 5.0
    moderated = Prior(factor=1.0, df=3.0, num=3).moderate(spread)
    assert moderated.seeds == pytest.approx([7 / 5, 7 / 5, 28 / 8])
    assert moderated.seed_df == pytest.approx([4.0, 4.0, 8.0])
