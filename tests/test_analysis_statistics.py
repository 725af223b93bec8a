"""Means, spreads and paired intervals, against numbers computed by hand or by scipy's own test."""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from harness.analysis.metrics import describe
from harness.analysis.statistics import compare, interval, summarise
from harness.errors import UnknownNameError

BASE = [2.0, 2.2, 2.1]
OURS = [1.9, 2.08, 1.99]


def frame(cells: dict[str, list[float | None] | float], *, metric: str = "heldout_loss") -> pd.DataFrame:
    """Rows as `frame.load` makes them: a list holds one value per seed (None: failed), a number has no seed."""
    rows = []
    for label, values in cells.items():
        pairs = list(enumerate(values)) if isinstance(values, list) else [(None, values)]
        for seed, value in pairs:
            status, num = ("failed", None) if value is None else ("finished", 100)
            rows.append({"label": label, "seed": seed, "status": status, "metric": metric, "value": value, "num": num})
    return pd.DataFrame(rows).astype({"seed": "Int64", "value": "float64", "num": "Int64"})


def only(comparison: pd.DataFrame, label: str) -> pd.Series:
    (row,) = (row for _, row in comparison[comparison["label"] == label].iterrows())
    return row


def test_mean_std_and_count():
    row = only(summarise(frame({"a": [1.0, 2.0, 4.0]})), "a")
    assert row["mean"] == pytest.approx(7 / 3)
    assert row["std"] == pytest.approx(math.sqrt(7 / 3))  # squares 16/9 + 1/9 + 25/9, over n - 1 = 2
    assert row["num_seeds"] == 3


def test_single_value_has_no_std():
    row = only(summarise(frame({"teacher": 1.5})), "teacher")
    assert (row["mean"], row["num_seeds"]) == (1.5, 1)
    assert math.isnan(row["std"])


def test_paired_interval_is_scipys():
    row = only(compare(frame({"base": BASE, "ours": OURS}), "base"), "ours")
    expected = stats.ttest_rel(OURS, BASE).confidence_interval(0.95)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert row["difference"] == pytest.approx(-0.11)
    assert row["difference_std"] == pytest.approx(0.01)
    # By hand: t(0.975, 2) = 4.302653, so -0.11 ± 4.302653 * 0.01 / sqrt(3).
    assert row["ci_high"] == pytest.approx(-0.11 + 4.302653 * 0.01 / math.sqrt(3), abs=1e-8)
    assert (row["num_pairs"], row["distinguishable"], row["verdict"]) == (3, True, "better")


def test_pairing_sees_what_unpaired_spreads_hide():
    # The seeds of each differ by ten times the difference between them.
    assert stats.ttest_ind(OURS, BASE).pvalue > 0.05
    assert only(compare(frame({"base": BASE, "ours": OURS}), "base"), "ours")["distinguishable"]


def test_only_shared_seeds_are_paired():
    row = only(compare(frame({"base": BASE, "ours": [1.9, None, 1.99]}), "base"), "ours")
    assert row["num_pairs"] == 2
    assert row["difference"] == pytest.approx(-0.105)


def test_one_shared_seed_is_untested():
    row = only(compare(frame({"base": BASE, "ours": [1.0, None, None]}), "base"), "ours")
    assert (row["num_pairs"], row["distinguishable"], row["verdict"]) == (1, False, "untested")
    assert math.isnan(row["ci_low"])


@pytest.mark.parametrize(("baseline", "other", "sign"), [("base", "teacher", 1), ("teacher", "base", -1)])
def test_seedless_row_is_a_constant(baseline: str, other: str, sign: int):
    row = only(compare(frame({"base": BASE, "teacher": 1.5}), baseline), other)
    expected = stats.ttest_1samp([1.5 - value for value in BASE], 0).confidence_interval(0.95)
    bounds = sorted(sign * bound for bound in (expected.low, expected.high))
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(bounds)
    assert row["num_pairs"] == 3


def test_two_constants_have_a_difference_and_no_interval():
    row = only(compare(frame({"teacher": 1.5, "no kd": 2.5}), "teacher"), "no kd")
    assert (row["difference"], row["verdict"]) == (1.0, "untested")


@pytest.mark.parametrize(
    ("metric", "shift", "verdict"),
    [("accuracy", 0.1, "better"), ("accuracy", -0.1, "worse"), ("ece", 0.1, "worse"), ("novel", 0.1, "different")],
)
def test_verdict_follows_the_metrics_direction(metric: str, shift: float, verdict: str):
    shifted = [value + shift + 0.001 * index for index, value in enumerate(BASE)]
    assert only(compare(frame({"base": BASE, "ours": shifted}, metric=metric), "base"), "ours")["verdict"] == verdict


def test_rounding_is_no_difference():
    same = [value * (1 + 2e-16) for value in BASE]
    assert not only(compare(frame({"base": BASE, "ours": same}), "base"), "ours")["distinguishable"]


def test_diverged_seed_is_not_skipped():
    metrics = frame({"base": BASE, "ours": [1.0, math.inf, math.nan]})
    assert not math.isfinite(only(summarise(metrics), "ours")["mean"])
    assert only(compare(metrics, "base"), "ours")["verdict"] == "untested"


def test_order_of_rows_does_not_matter():
    metrics = frame({"base": BASE, "ours": OURS, "teacher": 1.5, "part": [2.0, None, 2.4]})
    for draw in range(5):
        shuffled = metrics.sample(frac=1, random_state=draw)
        pd.testing.assert_frame_equal(summarise(shuffled), summarise(metrics), check_exact=True)
        pd.testing.assert_frame_equal(compare(shuffled, "base"), compare(metrics, "base"), check_exact=True)


def test_unknown_baseline_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'Full KD'"):
        compare(frame({"Full KD": BASE}), "full KD")


def test_interval_covers_at_its_nominal_rate():
    draws = stats.norm.rvs(loc=0.3, size=(2000, 3), random_state=0)
    covered = sum(low <= 0.3 <= high for low, high in map(interval, draws))
    assert 0.935 < covered / 2000 < 0.965  # three binomial standard errors about 0.95


def test_numbers_are_printed_as_the_paper_does():
    accuracy, loss = describe("accuracy"), describe("heldout_loss")
    assert (accuracy.show(0.6442), accuracy.show_spread(0.002)) == ("64.4", "0.20")
    assert (describe("perplexity").show(7.304), loss.show(2.10344)) == ("7.30", "2.1034")
    assert (loss.show_difference(0.01), loss.show_difference(-0.01)) == ("+0.0100", "-0.0100")
    assert loss.show(-1e-9) == "0.0000"
    assert describe("accuracy/gsm8k").heading == "Accuracy, gsm8k (%)"
    assert (describe("novel").title, describe("novel").show(12.3456)) == ("novel", "12.3")


def test_the_layer_needs_no_torch():
    code = "import sys, harness.analysis.report; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
