"""How much of a difference is noise: what items and seeds alone bring about, and what this run could have found."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from harness.analysis.cells import Evidence
from harness.analysis.inference import Spread, Values, detectable, half_width
from harness.analysis.measures import Measured, halves
from harness.analysis.moderation import prior_of
from harness.analysis.statistics import LEVEL, pair_with

POWER = 0.8
SPLITS = 200


def noise_floor(evidence: Evidence, baseline: str | None, *, seed: int = 0) -> pd.DataFrame:
    """Measure, metric by metric, the differences that are not differences between strategies.

    Args:
        evidence: what finished.
        baseline: the label that others are compared with; None leaves out what only comparisons have.
        seed: of the random halves of the items.

    Returns:
        One row per metric, in the metric's own unit, sorted by metric:

        - seed_std: standard deviation between seeds of one strategy, pooled over strategies;
        - item_error: standard error of one trial over its items, as recorded; the median over trials;
        - num_items: what that is over; the least over trials;
        - halves: how far one model's metric on a random half of the items is from that on the other half, root mean
          square over splits and trials; missing where no items are known;
        - family: comparisons with the baseline; num_pairs: seeds of most of them; covers: as in `compare`;
        - detectable_one, detectable, detectable_own: the smallest true difference found with a probability of 80%: if
          it were the only comparison; at the strictest step of Holm's correction, with the two keys of `compare`; and
          there by each strategy's own seeds alone, without what the other comparisons say of their spread. The variance
          of a difference is taken to be the mean over the comparisons.
    """
    rows = []
    for metric in evidence.metrics:
        cells, measured = evidence.of(metric), evidence.measured.get(metric)
        several = [cell.values for cell in cells.values() if len(cell.values) > 1 and np.isfinite(cell.values).all()]
        spreads = [(len(values) - 1, values.var(ddof=1)) for values in several]
        df = sum(one for one, _ in spreads)
        pooled = math.sqrt(sum(one * variance for one, variance in spreads) / df) if df else math.nan
        stderr = np.concatenate([cell.stderr for cell in cells.values()])
        rows.append(
            {
                "metric": metric,
                "seed_std": pooled,
                "item_error": float(np.nanmedian(stderr)) if np.isfinite(stderr).any() else math.nan,
                "num_items": min(cell.num for cell in cells.values()),
                "halves": _halves(metric, measured, seed),
            }
            | _power(evidence, metric, baseline)
        )
    columns = ["metric", "seed_std", "item_error", "num_items", "halves"]
    columns += ["family", "num_pairs", "covers", "detectable_one", "detectable", "detectable_own"]
    return pd.DataFrame(rows, columns=columns)


def _halves(metric: str, measured: Measured | None, seed: int) -> float:
    if measured is None:
        return math.nan
    splits = list(halves(measured.strata, SPLITS, seed, f"halves of {metric}"))
    first = measured.weigh(np.stack([one for one, _ in splits]))
    second = measured.weigh(np.stack([other for _, other in splits]))
    return float(np.sqrt(((first - second) ** 2).mean()))


def _power(evidence: Evidence, metric: str, baseline: str | None) -> dict[str, object]:
    nothing: dict[str, object] = {"family": 0, "num_pairs": 0, "covers": ""}
    nothing |= dict.fromkeys(("detectable_one", "detectable", "detectable_own"), math.nan)
    found = None if baseline is None else pair_with(evidence, metric, baseline)
    if found is None:
        return nothing
    prior, pairs = prior_of(found.pairs.spread[~found.pairs.constant]), found.pairs
    spread = pairs.spread[np.isfinite(pairs.spread.error) & (pairs.spread.error > 0)]
    family, level = len(spread.error), LEVEL / evidence.looks
    if not family:
        return nothing
    seed_df, item_df = round(float(np.median(spread.seed_df))), round(float(np.median(spread.item_df)))
    covers = " and ".join(name for name, df in (("seeds", seed_df), ("items", item_df)) if df > 0)
    # Of rows with other numbers of seeds, what it would be with as many as most have.
    share = np.where(spread.seed_df > 0, (spread.seed_df + 1) / (seed_df + 1), 1.0)
    parts = (spread.seeds * share, spread.items, spread.single * share)
    seeds, items, single = (np.array([part.mean()]) for part in parts)
    typical = Spread(seeds, np.array([float(seed_df)]), items, np.array([float(item_df)]), single)

    def both_keys(possible: Spread) -> Values:
        steadied = half_width(prior.moderate(possible), level / family)
        return np.asarray(np.maximum(steadied, half_width(possible, level)))

    bounds: dict[str, Callable[[Spread], Values]] = {
        "detectable_one": lambda possible: half_width(possible, level),
        "detectable": both_keys,
        "detectable_own": lambda possible: half_width(possible, level / family),
    }
    least = {name: detectable(typical, bound, power=POWER) for name, bound in bounds.items()}
    return {"family": family, "num_pairs": seed_df + 1, "covers": covers} | least
