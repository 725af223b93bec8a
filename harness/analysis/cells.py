"""The finished values of one label and metric, and two of them paired seed by seed and item by item."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.inference import Spread, Values, decompose, join
from harness.analysis.measures import Measured, measure

# S = seeds, I = items, N = pairs

# Pairs whose items are compared at once: their differences stay in the processor's cache.
_BLOCK = 16

RowNumbers = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class SeedValues:
    """One label's finished values of one metric, in ascending order of seed."""

    seeds: tuple[int | None, ...]  # the trials' seeds; (None,) for a label without randomness
    trials: tuple[str, ...]  # the trials' ids
    values: Values  # shape (S,), in the metric's own unit
    stderr: Values  # shape (S,), standard errors over items as recorded; nan where there is none
    num: int  # items, or tokens, that the values are estimated from; the least over trials

    def rows(self, measured: Measured | None) -> RowNumbers | None:
        """Return the rows of the trials among those whose items are known; None if any is not."""
        if measured is None or not set(self.trials) <= set(measured.trials):
            return None
        return np.array([measured.trials[trial] for trial in self.trials], dtype=np.intp)

    def meets(self, other: "SeedValues") -> bool:
        """Whether the two can be paired: a label without a seed can be with any."""
        return None in self.seeds or None in other.seeds or not set(self.seeds).isdisjoint(other.seeds)

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
        return replace(spread, items=np.array([items]), item_df=np.array([1e6]))


@dataclass(frozen=True, kw_only=True)
class PairedLabels:
    """Pairs of labels: their values of one metric over the seeds that both have."""

    # of each pair, shape (S,): the first minus the second; S is zero where they share no seed
    differences: tuple[Values, ...]
    mean: Values  # shape (N,), mean differences
    constant: npt.NDArray[np.bool_]  # shape (N,), whether a side has no seed, and so no spread of its own
    reference: Values  # shape (N,), the second's mean over the shared seeds
    spread: Spread  # estimated variance of the mean differences
    # rows of both sides' trials in `Measured.contributions`, shape (S,) each; None where items are not known
    rows: tuple[tuple[RowNumbers, RowNumbers] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything finished of a grid, gathered once."""

    cells: dict[tuple[str, str], SeedValues]  # by (label, metric), sorted by both
    measured: dict[str, Measured]  # the metrics that the items give
    labels: frozenset[str]  # every label, finished or not
    looks: int = 1  # how often verdicts are looked at before more seeds are run; tests allow for them (Bonferroni)

    @property
    def metrics(self) -> list[str]:
        """The metrics, sorted."""
        return sorted({metric for _, metric in self.cells})

    def of(self, metric: str) -> dict[str, SeedValues]:
        """Return the cells of one metric by label, sorted."""
        return {label: cell for (label, name), cell in self.cells.items() if name == metric}


def gather(metrics: pd.DataFrame, items: pd.DataFrame | None = None, *, looks: int = 1) -> Evidence:
    """Gather finished values and single items.

    Args:
        metrics: rows of trial_id, label, seed, status, metric, value, stderr, num, as in `Frames.metrics`; in any
            order.
        items: rows of single items, as in `Frames.tables["items"]`; None where there are none.
        looks: how often verdicts are looked at.
    """
    cells = _by_cell(metrics)
    recorded: dict[str, dict[str, float]] = {}
    for (_, metric), cell in cells.items():
        recorded.setdefault(metric, {}).update(zip(cell.trials, cell.values.tolist(), strict=True))
    measured = {} if items is None else measure(items, recorded)
    return Evidence(cells=cells, measured=measured, labels=frozenset(metrics["label"]), looks=looks)


def _by_cell(metrics: pd.DataFrame) -> dict[tuple[str, str], SeedValues]:
    """Return the finished values of each (label, metric), sorted by both."""
    # `num` tells a value that was measured and is nan from one that was not measured.
    rows = metrics[(metrics["status"] == "finished") & metrics["num"].notna()]
    rows = rows.sort_values(["label", "metric", "seed"])
    values = rows["value"].to_numpy(dtype=np.float64)
    stderr = rows["stderr"].to_numpy(dtype=np.float64) if "stderr" in rows else np.full(len(rows), np.nan)
    nums, trials = rows["num"].tolist(), rows["trial_id"].astype(str).tolist()
    seeds = [None if pd.isna(seed) else int(seed) for seed in rows["seed"].tolist()]
    places: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(zip(rows["label"].astype(str), rows["metric"].astype(str), strict=True)):
        places.setdefault(key, []).append(place)
    return {
        key: SeedValues(
            seeds=tuple(seeds[place] for place in own),
            trials=tuple(trials[place] for place in own),
            values=values[own],
            stderr=stderr[own],
            num=int(min(nums[place] for place in own)),
        )
        for key, own in places.items()
    }


def pair(sides: Sequence[tuple[SeedValues, SeedValues]], measured: Measured | None) -> PairedLabels:
    """Pair labels seed by seed; a label without a seed is paired with every seed of the other."""
    known = {id(cell): cell.rows(measured) for both in sides for cell in both}
    differences, reference, rows = [], [], []
    with np.errstate(invalid="ignore"):
        for first, second in sides:
            left, right = _shared(first, second)
            one, other = known[id(first)], known[id(second)]
            values = second.values[right]
            differences.append(first.values[left] - values)
            reference.append(float(np.mean(values)) if len(right) else math.nan)
            rows.append(None if one is None or other is None else (one[left], other[right]))
        mean = np.array([float(np.mean(each)) if len(each) else math.nan for each in differences])
        # One seed of many says nothing about seeds, however many items it has.
        constant = [None in first.seeds and None in second.seeds for first, second in sides]
        itemised = [
            own is not None and (len(each) > 1 or (alone and len(each) == 1)) and bool(np.isfinite(each).all())
            for each, own, alone in zip(differences, rows, constant, strict=True)
        ]

        order: list[int] = []
        spreads = []
        for num, by_item in sorted({(len(each), known) for each, known in zip(differences, itemised, strict=True)}):
            alike = [n for n in range(len(sides)) if (len(differences[n]), itemised[n]) == (num, by_item)]
            for block in (alike[start : start + _BLOCK] for start in range(0, len(alike), _BLOCK)):
                order += block
                if by_item and measured is not None:
                    one, other = (np.array([both[side] for n in block if (both := rows[n])]) for side in (0, 1))
                    contributions = measured.contributions[one] - measured.contributions[other]
                    spreads.append(decompose(contributions, measured.strata))
                else:
                    spreads.append(decompose(np.array([differences[n] for n in block]), None))
    return PairedLabels(
        differences=tuple(differences),
        mean=mean,
        constant=np.array([None in first.seeds or None in second.seeds for first, second in sides], dtype=bool),
        reference=np.array(reference),
        spread=join(spreads)[np.argsort(order)],
        rows=tuple(rows),
    )


def _shared(first: SeedValues, second: SeedValues) -> tuple[list[int], list[int]]:
    if None in first.seeds:
        return [0] * len(second.seeds), list(range(len(second.seeds)))
    if None in second.seeds:
        return list(range(len(first.seeds))), [0] * len(first.seeds)
    both = [seed for seed in first.seeds if seed in second.seeds]
    return [first.seeds.index(seed) for seed in both], [second.seeds.index(seed) for seed in both]
