"""What the numbers say over seeds and items: means, differences from a baseline, ranks.

Only finished trials count. Nothing here depends on the order of the rows it is given.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.cells import Evidence, PairedLabels, pair
from harness.analysis.inference import Spread, Values, half_width, holm, join, tail
from harness.analysis.measures import Measured, resamples
from harness.analysis.metrics import MetricInfo, Verdict, describe
from harness.analysis.moderation import prior_of
from harness.config.errors import unknown

LEVEL = 0.05
RESAMPLES = 1000


def summarise(evidence: Evidence) -> pd.DataFrame:
    """Average each metric of each label over its seeds.

    A value that is not finite is not skipped: a strategy that diverged on one seed has no finite mean.

    Returns:
        label, metric, mean, std, num_seeds, mean_low, mean_high, mean_covers, sorted by label and metric; in the
        metric's own unit. std is the sample standard deviation over seeds (ddof 1), missing for a single value.
        mean_low and mean_high are the mean's 95% interval; mean_covers says of which choice it speaks: "seeds and
        items", "seeds", "items", or "" where there is no interval. Where no items are known, the standard error that
        the records state stands for them. A label without a finished value has no row.
    """
    rows, spreads = [], []
    for (label, metric), cell in evidence.cells.items():
        rows.append((label, metric, _mean(cell.values), _std(cell.values), len(cell.values)))
        spreads.append(cell.spread(evidence.measured.get(metric)))
    frame = pd.DataFrame(rows, columns=["label", "metric", "mean", "std", "num_seeds"])
    frame = frame.astype({"mean": "float64", "std": "float64"})
    spread = join(spreads)
    margin = half_width(spread, LEVEL, matching=True)
    frame["mean_low"], frame["mean_high"] = frame["mean"] - margin, frame["mean"] + margin
    frame["mean_covers"] = _covers(spread)
    return frame


def compare(evidence: Evidence, baseline: str, *, seed: int = 0) -> pd.DataFrame:
    """Compare every label with a baseline, metric by metric, over the seeds and the items they share.

    Trials of one seed share initialisation and data order, and all trials share the items, so differences are taken
    seed by seed and item by item. A label without seeds (no KD, the teacher) is a constant: it is paired with every
    seed of the baseline, so only the baseline's spread over seeds enters, and the same holds with the roles exchanged.
    Two constants differ over items only. A single shared seed says nothing about seeds and is not tested.

    A difference is found with two keys: by the moderated test (`moderation`), corrected for the number of comparisons
    by Holm's procedure, the family being all comparisons of one metric; and by its own seeds alone, uncorrected. Where
    verdicts were looked at before more seeds were run, both keys allow for the number of looks (`Evidence.looks`).

    A metric that the items do not give (held-out loss, say) is compared over seeds alone: its interval does not cover
    the choice of held-out text.

    Args:
        evidence: what finished.
        baseline: the label to compare with.
        seed: of the resampling behind `improvement`; nothing else is random.

    Returns:
        Sorted by label and metric, without the baseline and metrics that either side lacks:

        - label, metric, baseline, num_pairs (seeds);
        - difference (label minus baseline), difference_std (over seeds);
        - ci_low, ci_high: its 95% interval, for this comparison alone; covers: "seeds and items", "seeds", "items" or
          "";
        - p_value (of its own seeds), p_moderated, p_corrected (the larger of p_value and the corrected p_moderated),
          family (number of comparisons corrected for), corrected_low, corrected_high (the wider of the intervals that
          the two keys imply), distinguishable (it excludes zero) and verdict;
        - effect_size: the mean difference in standard deviations of the seeds' differences, with Hedges' correction
          for few seeds; missing below three;
        - improvement: how often the label is better than the baseline when the items are drawn anew and one seed is
          picked (ties count half); missing where neither way is better.

    Raises:
        UnknownNameError: no trial has the baseline's label.
    """
    if baseline not in evidence.labels:
        raise unknown("baseline", baseline, evidence.labels)
    blocks, spreads, steadied, levels = [], [], [], []
    for metric in evidence.metrics:
        found = pair_with(evidence, metric, baseline)
        if found is not None:
            block, level = judge(metric, found)
            improvement = _improvement(metric, found.pairs, evidence.measured.get(metric), seed)
            blocks.append(block.assign(baseline=baseline, improvement=improvement))
            spreads.append(found.pairs.spread)
            steadied.append(found.moderated)
            levels.append(level)
    if not blocks:
        return pd.DataFrame(columns=_COLUMNS)
    table = _bounded(
        pd.concat(blocks, ignore_index=True), join(spreads), join(steadied), np.concatenate(levels), evidence.looks
    )
    return table[_COLUMNS].sort_values(["label", "metric"], ignore_index=True)


@dataclass(frozen=True)
class Versus:
    """Every row beside one, in one metric.

    Attributes:
        labels: of the other rows, N of them.
        pairs: their differences from it, N.
        moderated: the spread of the differences as all of them together say it.
        looks: how often they are looked at.
    """

    labels: tuple[str, ...]
    pairs: PairedLabels
    moderated: Spread
    looks: int = 1

    @classmethod
    def of(cls, labels: Iterable[str], pairs: PairedLabels, *, looks: int = 1) -> "Versus":
        """Steady the differences' spread by each other."""
        prior = prior_of(pairs.spread[~pairs.constant])
        return cls(tuple(labels), pairs, prior.moderate(pairs.spread), looks)


def pair_with(evidence: Evidence, metric: str, baseline: str) -> Versus | None:
    """Pair every row with one; None where that one lacks the metric, or no other has a seed in common with it."""
    cells = evidence.of(metric)
    reference = cells.pop(baseline, None)
    shared = {} if reference is None else {label: cell for label, cell in cells.items() if cell.meets(reference)}
    if reference is None or not shared:
        return None
    pairs = pair([(cell, reference) for cell in shared.values()], evidence.measured.get(metric))
    return Versus.of(shared, pairs, looks=evidence.looks)


def judge(metric: str, compared: Versus) -> tuple[pd.DataFrame, Values]:
    """Test one metric's differences from a baseline with two keys.

    Returns:
        The columns of `compare` but for intervals, and the levels at which the moderated test's intervals end, (N,).
    """
    pairs = compared.pairs
    own, steadied = _p_values(pairs, pairs.spread), _p_values(pairs, compared.moderated)
    corrected, levels = holm(at_looks(steadied, compared.looks), level=LEVEL)
    corrected = np.maximum(corrected, at_looks(own, compared.looks))
    table = pd.DataFrame(
        {
            "label": compared.labels,
            "metric": metric,
            "num_pairs": [len(one) for one in pairs.differences],
            "difference": pairs.mean,
            "difference_std": [_std(one) for one in pairs.differences],
            "covers": np.where(np.isnan(own), "", _covers(pairs.spread)),
            "p_value": own,
            "p_moderated": steadied,
            "p_corrected": corrected,
            "family": int((~np.isnan(own)).sum()),
            "distinguishable": corrected <= LEVEL,
            "verdict": [verdict(describe(metric), *each) for each in zip(pairs.mean, corrected, strict=True)],
            "effect_size": [_effect(one) for one in pairs.differences],
        }
    )
    return table, levels / compared.looks


def at_looks(p: Values, looks: int) -> Values:
    """Correct p-values for the number of times that they are looked at, by Bonferroni's inequality."""
    return np.asarray(np.minimum(p * looks, 1.0))


def rank(evidence: Evidence, among: Sequence[str]) -> pd.DataFrame:
    """Rank these labels by each metric that has a better direction, with ties.

    A label's rank is one more than the number of labels that are distinguishably better; labels that cannot be told
    from the best ones share rank 1. Together with `rank_worst` (labels that are not distinguishably worse) it is a 95%
    interval of the label's true rank, one label at a time: the comparisons of one label with all others are corrected
    for their number by Holm's procedure (the marginal confidence set of Mogstad, Romano, Shaikh and Wilhelm, 2024).

    Returns:
        label, metric, rank, rank_worst, num_ranked, sorted by label and metric. Labels without a finite mean have no
        row.
    """
    rows = []
    for metric in evidence.metrics:
        direction = describe(metric).direction
        cells = evidence.of(metric)
        ranked = [label for label in cells if label in set(among) and np.isfinite(cells[label].values).all()]
        if direction is None:
            continue
        # p-values of every two, and whether the one of the row is better than that of the column.
        p, ahead = np.full((len(ranked), len(ranked)), np.nan), np.zeros((len(ranked), len(ranked)), dtype=bool)
        if places := list(combinations(range(len(ranked)), 2)):
            first, second = np.array(places).T
            sides = [(cells[ranked[one]], cells[ranked[other]]) for one, other in places]
            pairs = pair(sides, evidence.measured.get(metric))
            p[first, second] = p[second, first] = _p_values(pairs, pairs.spread)
            ahead[first, second] = (pairs.mean > 0) == (direction == "higher")
            ahead[second, first] = (pairs.mean < 0) == (direction == "higher")
        for row, label in enumerate(ranked):
            apart = holm(at_looks(p[row], evidence.looks))[0] <= LEVEL
            best, worst = 1 + int((apart & ~ahead[row]).sum()), len(ranked) - int((apart & ahead[row]).sum())
            rows.append((label, metric, best, worst, len(ranked)))
    frame = pd.DataFrame(rows, columns=["label", "metric", "rank", "rank_worst", "num_ranked"])
    return frame.sort_values(["label", "metric"], ignore_index=True)


_COLUMNS = [
    *("label", "metric", "baseline", "num_pairs", "difference", "difference_std", "ci_low", "ci_high", "covers"),
    *(
        "p_value",
        "p_moderated",
        "p_corrected",
        "family",
        "corrected_low",
        "corrected_high",
        "distinguishable",
        "verdict",
    ),
    *("effect_size", "improvement"),
]


def _bounded(table: pd.DataFrame, spread: Spread, moderated: Spread, levels: Values, looks: int) -> pd.DataFrame:
    """Add the intervals of differences: of each alone, and the wider of those that the two keys imply."""
    both = half_width(moderated, np.nan_to_num(levels, nan=LEVEL)), half_width(spread, LEVEL / looks)
    for name, margin in (("ci", half_width(spread, LEVEL, matching=True)), ("corrected", np.maximum(*both))):
        # Where the test has no answer, neither has the interval.
        margin = np.where(np.isnan(table["p_value"]), np.nan, margin)
        table[f"{name}_low"], table[f"{name}_high"] = table["difference"] - margin, table["difference"] + margin
    return table


def _p_values(pairs: PairedLabels, spread: Spread) -> Values:
    """Return the p-value of each difference, given the variance that is taken for it."""
    # Two runs that compute the same thing may differ by rounding alone, seed after seed.
    rounding = _rounds_away(pairs.mean, pairs.reference)
    p = tail(np.where(rounding, 0.0, pairs.mean), spread)
    # Without any spread nothing can be said of a difference: seeds that agree to the last digit are not three seeds.
    certain = (pairs.spread.error == 0) & ~rounding
    return np.where(certain, np.nan, p)


def _improvement(metric: str, pairs: PairedLabels, measured: Measured | None, seed: int) -> Values:
    direction = describe(metric).direction
    if direction is None:
        return np.full(len(pairs.differences), np.nan)
    sign = 1 if direction == "higher" else -1
    both = zip(pairs.differences, pairs.reference, strict=True)
    shares = np.array([_wins(sign * one, np.asarray(scale)) for one, scale in both])
    paired = {place: rows for place, rows in enumerate(pairs.rows) if rows is not None}
    if measured is not None and paired:
        shares[list(paired)] = 0.0
        for block in resamples(measured.strata, RESAMPLES, seed, metric):
            drawn = measured.weigh(block)
            for place, rows in paired.items():
                theirs = drawn[:, rows[1]]
                shares[place] += len(block) * _wins(sign * (drawn[:, rows[0]] - theirs), theirs)
        shares[list(paired)] /= RESAMPLES
    return shares


def _wins(advantage: Values, scale: Values) -> float:
    if not np.isfinite(advantage).all():
        return math.nan
    # As many right answers are a tie, in whichever order a matrix product has summed them.
    tie = _rounds_away(advantage, scale)
    return float(np.where(tie, 0.5, advantage > 0).mean())


def _rounds_away(difference: Values, scale: Values) -> npt.NDArray[np.bool_]:
    """Tell differences that rounding alone may make, of numbers this large."""
    return np.abs(difference) <= 1e-12 * np.abs(scale)


def _covers(spread: Spread) -> list[str]:
    names = {(True, True): "seeds and items", (True, False): "seeds", (False, True): "items", (False, False): ""}
    return [names[bool(a), bool(b)] for a, b in zip(spread.seed_df > 0, spread.item_df > 0, strict=True)]


def verdict(info: MetricInfo, difference: float, p_corrected: float) -> Verdict:
    """Judge a difference by its corrected p-value; nan where nothing was tested."""
    if math.isnan(p_corrected):
        return "untested"
    if p_corrected > LEVEL:
        return "not distinguishable"
    if info.direction is None:
        return "different"
    return "better" if (difference > 0) == (info.direction == "higher") else "worse"


def _effect(differences: Values) -> float:
    """Return the mean difference in standard deviations of the differences, with Hedges' small-sample correction."""
    df = len(differences) - 1
    spread = _std(differences)
    if df < 2 or not spread > 0:
        return math.nan
    correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * _mean(differences) / spread


def _mean(values: Values) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf: the mean of a diverged run is nan, which is what is shown
        return float(np.mean(values))


def _std(values: Values) -> float:
    if len(values) < 2:
        return math.nan
    with np.errstate(invalid="ignore"):
        return float(np.std(values, ddof=1))
