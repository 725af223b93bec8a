"""Metrics from single items: what each item contributes, and what a metric would be on other items.

A metric is rebuilt from the items table only where that gives the number the record states; a metric the table cannot
rebuild has no item-level statistics.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.inference import Values

NUM_BINS = 15

# T = trials, I = items, R = resamples, B = bins of confidence

Weighing = Callable[[Values], Values]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of several trials over the same items."""

    trials: dict[str, int]  # row of each trial in `contributions`
    strata: npt.NDArray[np.intp]  # the stratum of each item, shape (I,): the metric is the mean over strata
    # shape (T, I): their mean (over strata of the means within) is the metric; for a metric that is no mean,
    # its linearisation at the trial's own value
    contributions: Values
    # the metric under other weights of the items: (R, I) to (R, T), exact also where it is no mean. Weights sum
    # to the stratum's share within each stratum
    weigh: Weighing


def measure(items: pd.DataFrame, recorded: Mapping[str, Mapping[str, float]]) -> dict[str, Measured]:
    """Rebuild metrics from their items.

    Args:
        items: rows of trial_id, task, item, metric, value, confidence, correct and, where answers count for more than
            one, weight; in any order.
        recorded: by metric, its value in each trial's record. A metric is a measure of the items, or
            `<measure>/<task>`; perplexity (exp of minus the log-likelihood), ece or `ece/<task>`. Tasks count alike.

    Returns:
        By metric, the trials whose items give the recorded value, over the items that most of them share. A metric of
        which there are none, or fewer than two items, is absent.
    """
    items = items.assign(weight=items.get("weight", 1.0))
    rated = {"confidence", "correct"} <= set(items)
    sure = items[items["confidence"].notna() & items["correct"].notna()] if rated else items[:0]
    by_measure: dict[object, pd.DataFrame] = dict(iter(items.groupby("metric")))
    by_measure["ece"], by_measure["perplexity"] = sure, by_measure.get("log_likelihood", items[:0])
    measured = {}
    for metric, values in recorded.items():
        name, _, task = metric.partition("/")
        if (whole := by_measure.get(metric)) is not None and len(whole):
            rows = whole
        else:
            rows = by_measure.get(name, items[:0])
            rows = rows[rows["task"] == task]
        one = _rebuilt(rows[rows["trial_id"].isin(values)], metric, values)
        if one is not None:
            measured[metric] = one
    return measured


def _rebuilt(rows: pd.DataFrame, metric: str, recorded: Mapping[str, float]) -> Measured | None:
    calibration = metric.partition("/")[0] == "ece"
    trials, keys, (first, second) = _aligned(rows, ["confidence", "correct"] if calibration else ["value", "weight"])
    if len(trials) == 0 or len(keys) < 2:
        return None
    strata = np.unique(keys, return_inverse=True)[1].astype(np.intp)
    rebuild = _calibration if calibration else _perplexity if metric == "perplexity" else _mean
    contributions, weigh = rebuild(first, second, strata)
    values = weigh(weights(strata)[None])[0]
    kept = np.isclose(values, np.array([recorded[trial] for trial in trials]), rtol=1e-6, atol=1e-9)
    if not kept.any():
        return None
    return Measured(
        trials={trial: row for row, trial in enumerate(np.array(trials)[kept])},
        strata=strata,
        contributions=contributions[kept],
        weigh=lambda other: weigh(other)[:, kept],
    )


def weights(strata: npt.NDArray[np.intp]) -> Values:
    """Return the weight of each item in its metric, shape (I,): strata count alike, items within alike."""
    sizes = np.bincount(strata)
    return np.asarray(1 / (np.count_nonzero(sizes) * sizes[strata]))


def resamples(strata: npt.NDArray[np.intp], num: int, seed: int, purpose: str) -> Iterator[Values]:
    """Draw items with replacement within each stratum; yields weights, shape (R, I), `num` rows in all.

    Args:
        strata: shape (I,).
        num: resamples.
        seed: of the generator, together with the purpose.
        purpose: e.g. the metric; the draws of different purposes are independent.
    """
    random = generator(seed, purpose)
    base = weights(strata)
    while num > 0:
        size = min(num, 100)  # a block of weights over ten thousand items stays below 10 MB
        block = np.empty((size, len(strata)))
        for name in np.unique(strata):
            inside = strata == name
            count = int(inside.sum())
            block[:, inside] = random.multinomial(count, np.full(count, 1 / count), size=size) * base[inside]
        yield block
        num -= size


def halves(strata: npt.NDArray[np.intp], num: int, seed: int, purpose: str) -> Iterator[tuple[Values, Values]]:
    """Split the items in two halves at random, within each stratum; yields the weights of both, shape (I,) each.

    Of an odd number the last one drawn is left out, so that both halves have the same size. A stratum of one item is
    in both.
    """
    random = generator(seed, purpose)
    share = 1 / len(np.unique(strata))
    for _ in range(num):
        first, second = np.zeros(len(strata)), np.zeros(len(strata))
        for name in np.unique(strata):
            inside = random.permutation(np.flatnonzero(strata == name))
            half = len(inside) // 2
            one, other = (inside[:half], inside[half : 2 * half]) if half else (inside, inside)
            first[one], second[other] = share / len(one), share / len(other)
        yield first, second


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a generator of its own for each seed and purpose."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def _aligned(rows: pd.DataFrame, columns: list[str]) -> tuple[list[str], npt.NDArray[np.str_], list[Values]]:
    """Return the trials that share one set of items, the items' tasks (I,), and each column's values (T, I)."""
    rows = rows.drop_duplicates(["trial_id", "task", "item"])
    wide = [_wide(rows, column) for column in columns]
    known = wide[0].notna()
    patterns: dict[bytes, list[str]] = {}
    for trial, present in known.items():
        patterns.setdefault(present.to_numpy().tobytes(), []).append(str(trial))
    if not patterns:
        return [], np.array([], dtype=np.str_), [np.empty((0, 0))] * len(columns)
    trials = max(patterns.values(), key=len)
    shared = known[trials[0]].to_numpy()
    tasks = known.index.get_level_values("task").to_numpy().astype(np.str_)[shared]
    return trials, tasks, [table[trials].to_numpy(dtype=np.float64)[shared].T for table in wide]


def _wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    table = rows.pivot(index=["task", "item"], columns="trial_id", values=column)
    return table.sort_index(axis=0).sort_index(axis=1)


def _mean(answers: Values, weight: Values, strata: npt.NDArray[np.intp]) -> tuple[Values, Weighing]:
    """Return the mean over strata of weighted means within; an item of several answers weighs as many."""
    inside = np.arange(int(strata.max()) + 1)[:, None] == strata
    # Cut out once: many blocks of weights are put to the same answers.
    sums = [(one, (answers * weight)[:, one].T, weight[:, one].T) for one in inside]

    def weigh(other: Values) -> Values:
        parts = [(other[:, one] @ top) / (other[:, one] @ whole) for one, top, whole in sums]
        return np.asarray(np.mean(parts, axis=0))

    contributions = np.empty(answers.shape)
    for one in inside:
        part, shares = answers[:, one], weight[:, one] / weight[:, one].mean(axis=1, keepdims=True)
        mean = (part * shares).mean(axis=1, keepdims=True)
        contributions[:, one] = mean + shares * (part - mean)
    return contributions, weigh


def _perplexity(nats: Values, weight: Values, strata: npt.NDArray[np.intp]) -> tuple[Values, Weighing]:
    parts, weigh = _mean(nats, weight, strata)
    mean = weigh(weights(strata)[None])[0][:, None]
    return np.exp(-mean) * (1 - (parts - mean)), lambda other: np.exp(-weigh(other))


def _calibration(confidence: Values, correct: Values, strata: npt.NDArray[np.intp]) -> tuple[Values, Weighing]:
    """Return the expected calibration error: per stratum, over bins, |sum of weight * (confidence - correct)|."""
    gaps = confidence - correct
    # Right-closed bins, as harness.evaluate.calibration has them; 0 falls in the first.
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    bins = np.maximum(np.searchsorted(edges, confidence, side="left") - 1, 0)
    cells = strata[None, :] * NUM_BINS + bins
    num_cells = (int(strata.max()) + 1) * NUM_BINS

    def per_cell(other: Values, trial: int) -> Values:
        member = np.zeros((len(strata), num_cells))
        member[np.arange(len(strata)), cells[trial]] = gaps[trial]
        return np.asarray(other @ member)

    def weigh(other: Values) -> Values:
        return np.stack([np.abs(per_cell(other, trial)).sum(axis=1) for trial in range(len(gaps))], axis=1)

    same = weights(strata)[None]
    signs = np.stack([np.sign(per_cell(same, trial)[0])[cells[trial]] for trial in range(len(gaps))])
    return signs * gaps, weigh
