"""Intervals and tests with three seeds: on simulated tables with known effects, and against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats
from spreads import spread_of

from harness.analysis.inference import Spread, Values, decompose, detectable, half_width, holm, tail

TABLES, LABELS, ITEMS = 500, 8, 60
STRATA = np.repeat([0, 1], ITEMS // 2)
# Standard deviations of one arm: between seeds, between items (the same for all its seeds), of a single answer.
REGIMES = {
    "seeds alone": (1.0, 0.0, 0.01),
    "single answers": (0.0, 0.0, 1.0),
    "items and answers": (0.0, 1.0, 1.0),
    "all three": (0.1, 1.0, 1.0),
    "many seeds' worth": (0.3, 1.0, 1.0),
    "items alone": (0.01, 1.0, 0.1),
}


def tables(regime: str, *, num_seeds: int = 3, shift: float = 0.0) -> Values:
    """Differences of every label from one baseline, (tables * labels, seeds, items); true means are `shift`."""
    between_seeds, between_items, answers = REGIMES[regime]
    draw = np.random.default_rng([7, num_seeds, *map(ord, regime)])
    shape = (TABLES, LABELS + 1, num_seeds, ITEMS)
    arms = draw.normal(size=(*shape[:3], 1)) * between_seeds + draw.normal(size=shape) * answers
    arms += draw.normal(size=(TABLES, LABELS + 1, 1, ITEMS)) * between_items
    return (arms[:, 1:] - arms[:, :1] + shift).reshape(-1, num_seeds, ITEMS)


def right_or_wrong() -> Values:
    """The same with answers that are 0 or 1: items of different difficulty, arms that share it, equal on average."""
    draw = np.random.default_rng(11)
    ability = draw.normal(size=(TABLES, 1, 1, ITEMS)) + 0.7 * draw.normal(size=(TABLES, LABELS + 1, 1, ITEMS))
    ability = ability + 0.15 * draw.normal(size=(TABLES, LABELS + 1, 3, 1))
    arms = (draw.random((TABLES, LABELS + 1, 3, ITEMS)) < 1 / (1 + np.exp(-2 * ability))).astype(float)
    return (arms[:, 1:] - arms[:, :1]).reshape(-1, 3, ITEMS)


def error_rates(differences: Values, truth: float = 0.0) -> tuple[float, float, float]:
    """Share of tables with a false finding, share of 95% intervals that hold the truth, share of findings."""
    spread, mean = decompose(differences, STRATA), differences.mean(axis=(1, 2))
    found = np.stack([holm(p)[0] <= 0.05 for p in tail(mean, spread).reshape(TABLES, LABELS)])
    covered = np.abs(mean - truth) <= half_width(spread, 0.05, matching=True)
    return float(found.any(axis=1).mean()), float(covered.mean()), float(found.mean())


# Two standard errors of a share of 5% over 500 tables.
TOLERANCE = 2 * math.sqrt(0.05 * 0.95 / TABLES)


@pytest.mark.parametrize("regime", REGIMES)
def test_an_absent_difference_is_not_found_and_intervals_cover(regime: str):
    false, covered, _ = error_rates(tables(regime))
    assert false <= 0.05 + TOLERANCE
    assert 0.93 <= covered <= 0.97


def test_the_same_for_answers_right_or_wrong():
    false, covered, _ = error_rates(right_or_wrong())
    assert false <= 0.05 + TOLERANCE
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_two_and_five_seeds_hold_their_level_too(num_seeds: int):
    false, covered, _ = error_rates(tables("all three", num_seeds=num_seeds))
    assert false <= 0.05 + TOLERANCE
    assert 0.93 <= covered <= 0.97


def test_a_true_difference_is_found():
    # The standard deviation of a difference is 0.26; at the strictest step of eight, t(2) asks for 12.6 errors.
    shift = 3.0
    _, covered, found = error_rates(tables("all three", shift=shift), shift)
    assert found > 0.9
    assert 0.93 <= covered <= 0.97


def test_what_the_design_avoids():
    """A bootstrap over three seeds, and a normal interval, cover far less than they claim."""
    seeds = tables("seeds alone").mean(axis=2)
    picks = np.random.default_rng(0).integers(3, size=(200, 3))
    low, high = np.quantile(seeds[:, picks].mean(axis=2), [0.025, 0.975], axis=1)
    assert ((low <= 0) & (high >= 0)).mean() < 0.85
    normal = 1.96 * seeds.std(axis=1, ddof=1) / math.sqrt(3)
    assert (np.abs(seeds.mean(axis=1)) <= normal).mean() < 0.9


def test_seeds_alone_are_student_t():
    values = np.array([[0.3, 0.1, 0.25], [-0.2, 0.4, 0.1]])
    spread = decompose(values, None)
    expected = [stats.ttest_1samp(row, 0) for row in values]
    assert tail(values.mean(axis=1), spread) == pytest.approx([one.pvalue for one in expected])
    for matching in (False, True):
        margin = half_width(spread, 0.05, matching=matching)
        high = [one.confidence_interval(0.95).high for one in expected]
        assert values.mean(axis=1) + margin == pytest.approx(high, rel=1e-9)


def test_items_alone_are_student_t():
    values = np.random.default_rng(0).normal(0.2, 1, size=40)
    spread = decompose(values[None, None], np.zeros(40, dtype=np.intp))
    assert tail(values.mean(keepdims=True), spread)[0] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_both_parts_by_simulation():
    spread = spread_of(1.0, 2, 0.5, 500)
    draw = np.random.default_rng(0)
    error = np.abs(draw.standard_t(2, 2_000_000) + math.sqrt(0.5) * draw.standard_t(500, 2_000_000))
    for distance in (1.0, 5.0, 20.0):
        assert tail(np.array([distance]), spread)[0] == pytest.approx((error > distance).mean(), rel=0.03)


def test_far_tails_are_accurate():
    # With next to no items' part the mixture is a t of 2 degrees of freedom.
    spread = spread_of(np.ones(4), 2, 1e-12, 500)
    distance = np.array([1.0, 5.0, 50.0, 500.0])
    assert tail(distance, spread) == pytest.approx(2 * stats.t.sf(distance, 2), rel=1e-4)


def test_variance_components_are_recovered():
    draw = np.random.default_rng(0)
    shape = (4000, 4, 50)
    values = 0.5 * draw.normal(size=(4000, 4, 1)) + 2.0 * draw.normal(size=(4000, 1, 50)) + draw.normal(size=shape)
    spread = decompose(values, np.zeros(50, dtype=np.intp))
    assert spread.seeds.mean() == pytest.approx(0.25 / 4 + 1 / 200, rel=0.1)
    assert spread.items.mean() == pytest.approx(4 / 50, rel=0.1)
    assert values.mean(axis=(1, 2)).var() == pytest.approx((spread.seeds + spread.items).mean(), rel=0.05)


def test_seeds_that_agree_to_the_last_digit_still_vary():
    answers = np.zeros((1, 3, 30))
    for seed in range(3):  # each seed is right on other items, and on as many
        answers[0, seed, 10 * seed : 10 * seed + 10] = 1
    spread = decompose(answers, np.zeros(30, dtype=np.intp))
    assert spread.seeds[0] > 0
    assert half_width(spread, 0.05)[0] > 0.2


def test_holm_by_hand():
    corrected, levels = holm(np.array([0.01, 0.04, math.nan, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    # 0.005 and 0.01 are rejected at 0.05 / 4 and 0.05 / 3; the other two share the step that stopped.
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, math.nan, 0.05 / 2, 0.05 / 4], nan_ok=True)


def test_corrected_intervals_exclude_zero_where_the_corrected_test_rejects():
    differences = tables("items and answers", shift=1.0)[: 40 * LABELS]
    spread, mean = decompose(differences, STRATA), differences.mean(axis=(1, 2))
    rejected = []
    for part in np.split(np.arange(len(mean)), 40):
        corrected, levels = holm(tail(mean[part], spread[part]))
        apart = np.abs(mean[part]) > half_width(spread[part], levels)
        assert (apart == (corrected <= 0.05)).all()
        rejected.append(apart)
    assert 0.1 < np.mean(rejected) < 0.9  # both cases were met


def test_the_detectable_difference_is_found_four_times_in_five():
    def bound(spread: Spread) -> Values:
        return half_width(spread, 0.05)

    # A noncentral t, for seeds alone.
    alone = detectable(spread_of(1.0, 2, 0.0, 0), bound)
    critical = stats.t.isf(0.025, 2)
    assert stats.nct.sf(critical, 2, alone) + stats.nct.cdf(-critical, 2, alone) == pytest.approx(0.8, abs=1e-3)
    # Seeds and items, by simulation.
    both = detectable(spread_of(1.0, 2, 0.5, 500), bound)
    draw = np.random.default_rng(0)
    num = 20_000
    estimate = both + math.sqrt(1.5) * draw.normal(size=num)
    spread = spread_of(draw.chisquare(2, size=num) / 2, 2, 0.5, 500)
    assert (tail(estimate, spread) <= 0.05).mean() == pytest.approx(0.8, abs=0.01)
