"""The finished values of one label and metric, and two of them paired seed by seed and item by item."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.inference import Spread, Values, decompose
from harness.analysis.measures import Measured, measure

# S = seeds, I = items


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One label's finished values of one metric, in ascending order of seed.

    Attributes:
        seeds: the trials' seeds; (None,) for a label without randomness.
        trials: the trials' ids.
        values: shape (S,), in the metric's own unit.
        stderr: shape (S,), standard errors over items as recorded; nan where there is none.
        num: items, or tokens, that the values are estimated from; the least over trials.
    """

    seeds: tuple[int | None, ...]
    trials: tuple[str, ...]
    values: Values
    stderr: Values
    num: int

    def rows(self, measured: Measured | None) -> npt.NDArray[np.intp] | None:
        """Return the rows of the trials among those whose items are known; None if any is not."""
        if measured is None or not set(self.trials) <= set(measured.trials):
            return None
        return np.array([measured.trials[trial] for trial in self.trials], dtype=np.intp)

    def spread(self, measured: Measured | None) -> Spread:
        """Estimate the variance of the mean over seeds and items."""
        rows = self.rows(measured)
        if measured is not None and rows is not None and np.isfinite(self.values).all():
            return decompose(measured.contributions[rows][None], measured.strata)
        with np.errstate(invalid="ignore"):
            spread = decompose(self.values[None], None)
            items = float(np.mean(self.stderr**2))
        if math.isnan(items):
            return spread
        # The seeds' items are the same: averaging over seeds does not lower their error. Their number is not known
        # (a record counts tokens where sequences were drawn), so their error is taken as known.
        return Spread(spread.seeds, spread.seed_df, np.array([items]), np.array([1e6]))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two labels' values of one metric over the seeds they share.

    Attributes:
        differences: shape (S,), the first minus the second.
        reference: shape (S,), the second's values.
        spread: estimated variance of the mean difference.
        rows: rows of both sides' trials in `Measured.contributions`, shape (S,) each; None where items are not known.
    """

    differences: Values
    reference: Values
    spread: Spread
    rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None

    @property
    def mean(self) -> float:
        """Mean difference."""
        with np.errstate(invalid="ignore"):
            return float(np.mean(self.differences))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything finished of a grid, gathered once.

    Attributes:
        cells: by (label, metric), sorted by both.
        measured: the metrics that the items give.
        labels: every label, finished or not.
    """

    cells: dict[tuple[str, str], Cell]
    measured: dict[str, Measured]
    labels: frozenset[str]

    @property
    def metrics(self) -> list[str]:
        """The metrics, sorted."""
        return sorted({metric for _, metric in self.cells})

    def of(self, metric: str) -> dict[str, Cell]:
        """Return the cells of one metric by label, sorted."""
        return {label: cell for (label, name), cell in self.cells.items() if name == metric}


def gather(metrics: pd.DataFrame, items: pd.DataFrame | None) -> Evidence:
    """Gather finished values and single items.

    Args:
        metrics: rows of trial_id, label, seed, status, metric, value, stderr, num, as in `Frames.metrics`; in any
            order.
        items: rows of single items, as in `Frames.tables["items"]`; None where there are none.
    """
    cells = _by_cell(metrics)
    recorded: dict[str, dict[str, float]] = {}
    for (_, metric), cell in cells.items():
        recorded.setdefault(metric, {}).update(zip(cell.trials, cell.values.tolist(), strict=True))
    found = {} if items is None else {metric: measure(items, metric, values) for metric, values in recorded.items()}
    measured = {metric: one for metric, one in found.items() if one is not None}
    return Evidence(cells=cells, measured=measured, labels=frozenset(metrics["label"]))


def _by_cell(metrics: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    """Return the finished values of each (label, metric), sorted by both."""
    # `num` tells a value that was measured and is nan from one that was not measured.
    rows = metrics[(metrics["status"] == "finished") & metrics["num"].notna()]
    rows = rows.sort_values(["label", "metric", "seed"])
    cells = {}
    for (label, metric), found in rows.groupby(["label", "metric"], sort=True):
        stderr = found["stderr"].to_numpy(dtype=np.float64) if "stderr" in found else np.full(len(found), np.nan)
        cells[str(label), str(metric)] = Cell(
            seeds=tuple(None if pd.isna(seed) else int(seed) for seed in found["seed"]),
            trials=tuple(found["trial_id"].astype(str)),
            values=found["value"].to_numpy(dtype=np.float64),
            stderr=stderr,
            num=int(found["num"].min()),
        )
    return cells


def pair(first: Cell, second: Cell, measured: Measured | None) -> Pair:
    """Pair two labels seed by seed; a label without a seed is paired with every seed of the other."""
    left, right = _shared(first, second)
    constant = None in first.seeds and None in second.seeds
    values, reference = first.values[left], second.values[right]
    with np.errstate(invalid="ignore"):
        differences = values - reference
        spread = decompose(differences[None], None) if len(left) else _nothing()
    one, other = first.rows(measured), second.rows(measured)
    rows = None if one is None or other is None else (one[left], other[right])
    # One seed of many says nothing about seeds, however many items it has.
    if measured is not None and rows is not None and (len(left) > 1 or constant) and np.isfinite(differences).all():
        both = measured.contributions[rows[0]] - measured.contributions[rows[1]]
        spread = decompose(both[None], measured.strata)
    return Pair(differences=differences, reference=reference, spread=spread, rows=rows)


def _shared(first: Cell, second: Cell) -> tuple[list[int], list[int]]:
    if None in first.seeds:
        return [0] * len(second.seeds), list(range(len(second.seeds)))
    if None in second.seeds:
        return list(range(len(first.seeds))), [0] * len(first.seeds)
    both = [seed for seed in first.seeds if seed in second.seeds]
    return [first.seeds.index(seed) for seed in both], [second.seeds.index(seed) for seed in both]


def _nothing() -> Spread:
    zero = np.zeros(1)
    return Spread(zero, zero, zero, zero)
