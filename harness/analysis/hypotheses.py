"""Hypotheses about single rows, tested with the two keys of `statistics.compare`: better, worse, not worse.

What a grid claims and which cheaper rows are not worse than the baseline are families of their own, corrected apart
from the comparisons of whole tables.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis.cells import Evidence
from harness.analysis.inference import Spread, half_width, holm, tail
from harness.analysis.metrics import MetricInfo, describe
from harness.analysis.read import Run
from harness.analysis.statistics import LEVEL, at_looks, pair_with

Side = Literal["apart", "above", "below"]

_MOST_SEEDS = 100


@dataclass(frozen=True)
class Advantage:
    """How much better a row is than another, over the seeds and items both have.

    Attributes:
        info: the metric's.
        value: mean difference in the metric's unit, positive where the row is better.
        scale: size of the numbers compared, which their rounding is relative to.
        own: variance of the difference as the row's own seeds show it; one estimate.
        moderated: the same, steadied by all comparisons with the other row.
        seeds: pairs of trials that it is the mean of.
        looks: how often it is looked at.
    """

    info: MetricInfo
    value: float
    scale: float
    own: Spread
    moderated: Spread
    seeds: int
    looks: int = 1

    @property
    def tested(self) -> bool:
        """Whether seeds or items say anything of its error."""
        p = tail(np.array([self.value]), self.own)
        # Seeds that agree to the last digit are not several seeds, unless both rows compute the same thing.
        certain = float(self.own.error[0]) == 0 and abs(self.value) > 1e-12 * abs(self.scale)
        return not math.isnan(p[0]) and not certain

    def keys(self, side: Side, beyond: float = 0.0) -> tuple[float, float]:
        """Return the p-values, of its own seeds and moderated, that the true advantage is not what is said.

        They allow for the number of looks.

        Args:
            side: said is that it is apart from `beyond` (two-sided), above or below it (one-sided).
            beyond: in the metric's unit.
        """
        if not self.tested:
            return math.nan, math.nan
        distance = self.value - beyond
        if abs(distance) <= 1e-12 * abs(self.scale):
            distance = 0.0
        both = [float(tail(np.array([distance]), spread)[0]) for spread in (self.own, self.moderated)]
        if side != "apart":
            agrees = distance > 0 if side == "above" else distance < 0
            both = [p / 2 if agrees else 1 - p / 2 for p in both]
        own, moderated = at_looks(np.array(both), self.looks)
        return float(own), float(moderated)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of this comparison alone, nan where it is not tested."""
        margin = float(half_width(self.own, LEVEL, matching=True)[0]) if self.tested else math.nan
        return self.value - margin, self.value + margin

    def seeds_to_decide(self, beyond: float = 0.0) -> int | None:
        """Return how many seeds would tell a true advantage of this size from `beyond`, were their spread as it is.

        None where items alone leave more error than that, or a hundred seeds would not do.
        """
        have = self.seeds
        for seeds in range(max(have + 1, 3), _MOST_SEEDS + 1):
            df = np.full(1, seeds - 1.0)
            more = Spread(self.own.seeds * have / seeds, df, self.own.items, self.own.item_df, self.own.single)
            if abs(self.value - beyond) > float(half_width(more, LEVEL)[0]):
                return seeds
        return None


def advantages(evidence: Evidence, metric: str, against: str) -> dict[str, Advantage]:
    """Return every other row's advantage over one, in one metric that has a better direction."""
    info = describe(metric)
    sign = 1.0 if info.direction == "higher" else -1.0
    paired = pair_with(evidence, metric, against)
    if paired is None or info.direction is None:
        return {}
    found = {}
    for place, label in enumerate(paired.labels):
        one = np.array([place])
        found[label] = Advantage(
            info=info,
            value=sign * float(paired.pairs.mean[place]),
            scale=float(paired.pairs.reference[place]),
            own=paired.pairs.spread[one],
            moderated=paired.moderated[one],
            seeds=len(paired.pairs.differences[place]),
            looks=paired.looks,
        )
    return found


def decided(keys: Sequence[tuple[float, float]]) -> list[bool]:
    """Say which of a family of hypotheses hold: by the moderated test after Holm's correction, and by own seeds."""
    own, moderated = np.array(keys, dtype=np.float64).reshape(-1, 2).T
    corrected = np.maximum(holm(moderated, level=LEVEL)[0], own)
    return [bool(p <= LEVEL) for p in corrected]


def margin_of(run: Run, metric: str) -> float | None:
    """Return how much worse than the baseline is still not worse, in the metric's unit; None if nobody knows.

    As the grid says, or a tenth of what lies between the student as it is and the teacher.
    """
    if metric in run.manifest.margin:
        return run.manifest.margin[metric]
    ends = anchors(run, metric)
    return None if ends is None else abs(ends[0] - ends[1]) / 10


def anchors(run: Run, metric: str) -> tuple[float, float] | None:
    """Return the means of the student as it is and of the teacher; None unless both are finite and apart."""
    means = [
        float(run.row(label, metric)["mean"])
        for model in ("student", "teacher")
        for label, strategy in run.strategies.items()
        if label in run.seedless and strategy.get("model") == model
    ]
    if len(means) != 2 or not all(map(math.isfinite, means)) or means[0] == means[1]:
        return None
    return means[0], means[1]


def not_worse(run: Run, metric: str, rows: Iterable[str], margin: float) -> dict[str, bool]:
    """Say of each row whether it is shown to be worse than the baseline by less than a margin; rows are one family."""
    known = advantages(run.evidence, metric, str(run.manifest.baseline))
    labels = [label for label in rows if label in known]
    held = decided([known[label].keys("above", -margin) for label in labels])
    return dict(zip(labels, held, strict=True))
