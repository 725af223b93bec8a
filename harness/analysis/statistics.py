"""What the numbers say over seeds: mean, spread, and differences from a baseline over paired seeds.

Only finished trials count. Nothing here depends on the order of the rows it is given.
"""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from harness.analysis.metrics import describe
from harness.errors import unknown

CONFIDENCE = 0.95

# untested: fewer than two pairs, or a value that is not finite. different: distinguishable, but neither way is better.
Verdict = Literal["better", "worse", "different", "not distinguishable", "untested"]

Values = npt.NDArray[np.float64]


def summarise(metrics: pd.DataFrame) -> pd.DataFrame:
    """Average each metric of each label over its seeds.

    A value that is not finite is not skipped: a strategy that diverged on one seed has no finite mean.

    Args:
        metrics: rows of label, seed, status, metric, value, num, as in `Frames.metrics`.

    Returns:
        label, metric, mean, std, num_seeds, sorted by label and metric; in the metric's own unit. std is the sample
        standard deviation (ddof 1), missing for a single value. A label without a finished value has no row.
    """
    rows = []
    for (label, metric), values in _by_cell(metrics).items():
        array = _array(values.values())
        rows.append((label, metric, _mean(array), _std(array), len(array)))
    frame = pd.DataFrame(rows, columns=["label", "metric", "mean", "std", "num_seeds"])
    return frame.astype({"mean": "float64", "std": "float64"})


def compare(metrics: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare every label with a baseline, metric by metric, over the seeds they share.

    Trials of one seed share initialisation and data order, so differences are taken seed by seed, and their 95%
    interval is Student's t on n - 1 degrees of freedom: with three seeds 4.3 standard errors each way, where a normal
    interval would claim 1.96.

    A label without seeds (no KD, the teacher) is a constant: it is paired with every seed of the baseline, so only
    the baseline's spread enters the interval, and the same holds with the roles exchanged. Two constants, or a single
    shared seed, have a difference and no interval.

    The interval speaks of training seeds. It does not cover the choice of evaluation items, which all trials share,
    and no correction is made for the number of comparisons. Seeds whose differences agree to the last digit, as coarse
    metrics can, give an interval of no width.

    Args:
        metrics: rows of label, seed, status, metric, value, num, as in `Frames.metrics`.
        baseline: the label to compare with.

    Returns:
        label, metric, baseline, num_pairs, difference (label minus baseline), difference_std, ci_low, ci_high,
        distinguishable (the interval excludes zero) and verdict, sorted by label and metric; the baseline itself and
        metrics that either side lacks have no row.

    Raises:
        UnknownNameError: no trial has the baseline's label.
    """
    if baseline not in set(metrics["label"]):
        raise unknown("baseline", baseline, set(metrics["label"]))
    cells = _by_cell(metrics)
    rows = []
    for (label, metric), values in cells.items():
        reference = cells.get((baseline, metric))
        if label == baseline or reference is None:
            continue
        differences = _paired(values, reference)
        if len(differences) == 0:
            continue
        low, high = interval(differences)
        mean = _mean(differences)
        # Two runs that compute the same thing may differ by rounding alone, seed after seed.
        apart = (low > 0 or high < 0) and abs(mean) > 1e-12 * abs(_mean(_array(reference.values())))
        verdict = _verdict(metric, mean, apart=apart, tested=math.isfinite(low))
        rows.append((label, metric, baseline, len(differences), mean, _std(differences), low, high, apart, verdict))
    names = ["difference", "difference_std", "ci_low", "ci_high"]
    columns = ["label", "metric", "baseline", "num_pairs", *names, "distinguishable", "verdict"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(names, "float64") | {"distinguishable": "bool"})


def interval(differences: Values) -> tuple[float, float]:
    """Return the 95% Student-t interval of a mean; (nan, nan) for fewer than two values or one that is not finite."""
    num = len(differences)
    if num < 2 or not np.isfinite(differences).all():
        return math.nan, math.nan
    margin = float(stdtrit(num - 1, 0.5 + CONFIDENCE / 2)) * _std(differences) / math.sqrt(num)
    mean = _mean(differences)
    return mean - margin, mean + margin


def _by_cell(metrics: pd.DataFrame) -> dict[tuple[str, str], dict[int | None, float]]:
    """Return the finished values of each (label, metric) by seed, in ascending order of seed."""
    # `num` tells a value that was measured and is nan from one that was not measured.
    measured = metrics[(metrics["status"] == "finished") & metrics["num"].notna()]
    cells: dict[tuple[str, str], dict[int | None, float]] = {}
    measured = measured.sort_values(["label", "metric", "seed"])
    columns = (measured[name].tolist() for name in ("label", "metric", "seed", "value"))
    for label, metric, seed, value in zip(*columns, strict=True):
        cells.setdefault((label, metric), {})[None if pd.isna(seed) else int(seed)] = float(value)
    return cells


def _paired(values: dict[int | None, float], reference: dict[int | None, float]) -> Values:
    if None in values:
        return _array(values[None] - other for other in reference.values())
    if None in reference:
        return _array(value - reference[None] for value in values.values())
    return _array(value - reference[seed] for seed, value in values.items() if seed in reference)


def _array(values: Iterable[float]) -> Values:
    return np.fromiter(values, dtype=np.float64)


def _verdict(metric: str, difference: float, *, apart: bool, tested: bool) -> Verdict:
    if not tested:
        return "untested"
    if not apart:
        return "not distinguishable"
    direction = describe(metric).direction
    if direction is None:
        return "different"
    return "better" if (difference > 0) == (direction == "higher") else "worse"


def _mean(values: Values) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf: the mean of a diverged run is nan, which is what is shown
        return float(np.mean(values))


def _std(values: Values) -> float:
    if len(values) < 2:
        return math.nan
    with np.errstate(invalid="ignore"):
        return float(np.std(values, ddof=1))
