"""What every figure of records starts from: each label's mean and interval of each number, in printed units."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import COSTS, describe
from harness.analysis.statistics import summarise
from harness.records.record import Manifest

# What a method takes beyond reading a model and being evaluated: seconds of all other phases.
METHOD_SECONDS = "wall_method_s"
_NOT_THE_METHOD = ("wall_load_s", "wall_eval_s", "wall_diagnostics_s", "wall_total_s")

# Bars of two strategies overlap more than their difference is uncertain: trials share seeds and items.
PAIRED = (
    "Whether two strategies differ is tested on paired differences, which these intervals of single means do not show."
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One label's value of one number, in the unit that is printed.

    Attributes:
        mean: over seeds, finite.
        low: lower end of its 95% interval; the mean itself where there is no interval.
        high: upper end.
        seeds: the single trials' values, finite ones.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def below(self) -> float:
        """How far the interval reaches down."""
        return self.mean - self.low

    @property
    def above(self) -> float:
        """How far the interval reaches up."""
        return self.high - self.mean


@dataclass(frozen=True)
class Numbers:
    """The summary of a grid's finished trials.

    Attributes:
        table: label, metric, mean, std, n, mean_low, mean_high, mean_covers, num_finished, num_planned; one row per
            label and number, in stored units.
        found: every finite mean by number and label, in printed units.
    """

    table: pd.DataFrame
    found: dict[str, dict[str, Point]]

    def points(self, metric: str) -> dict[str, Point]:
        """Return the finite points of one number by label, in the manifest's order."""
        return self.found.get(metric, {})

    def told(self, metrics: Iterable[str], shown: Iterable[str]) -> str:
        """Say what the intervals of some labels cover, and of how many seeds they are."""
        rows = self.table[self.table["metric"].isin(list(metrics)) & self.table["label"].isin(list(shown))]
        rows = rows[rows["n"] > 0]
        covers = [text for text in rows["mean_covers"].dropna().unique() if text]
        counts = sorted({int(n) for n in rows["n"]})
        seeds = f"{counts[0]} to {counts[-1]} trials" if len(counts) > 1 else f"{(counts or [0])[0]} trial(s)"
        if not covers:
            return f"No intervals: each mean is of {seeds} per strategy."
        return f"95% intervals over {' or '.join(sorted(covers))}; each mean is of {seeds}, one per seed."


def read(frames: Frames, manifest: Manifest) -> Numbers:
    """Summarise a grid's metrics and costs; labels of which nothing finished have their rows, with n = 0."""
    trials = frames.trials
    own = [name for name in map(str, trials) if name.startswith("wall_") and name not in _NOT_THE_METHOD]
    costs = trials.assign(**{METHOD_SECONDS: trials[own].sum(axis=1, min_count=1)}).melt(
        id_vars=["trial_id", "label", "seed", "status"],
        value_vars=[*(info.key for info in COSTS), METHOD_SECONDS],
        var_name="metric",
    )
    costs["num"] = costs["value"].notna().map({True: 1, False: None}).astype("Int64")
    items = frames.tables.get("items")
    summary = pd.concat([summarise(frames.metrics, items=items), summarise(costs)]).rename(columns={"num_seeds": "n"})
    ended = trials.assign(finished=trials["status"] == "finished").groupby("label")["finished"]
    counts = pd.DataFrame({"num_finished": ended.sum(), "num_planned": ended.size()})
    keys = [*frames.metrics["metric"].unique(), *costs["metric"].unique()]
    every = pd.MultiIndex.from_product([labels(manifest), keys], names=["label", "metric"]).to_frame(index=False)
    table = every.merge(counts, left_on="label", right_index=True).merge(summary, on=["label", "metric"], how="left")
    table["n"] = table["n"].astype("float64").fillna(0).astype(int)
    kept = ["label", "metric", "value", "status", "num"]
    values = pd.concat([frames.metrics[kept], costs[kept]])
    finished = (values["status"] == "finished") & values["num"].notna()
    seeds: dict[tuple[str, str], list[float]] = {}
    for row in values[finished].to_dict("records"):
        seeds.setdefault((row["label"], row["metric"]), []).append(float(row["value"]))
    return Numbers(table, _points(table, seeds))


def _points(table: pd.DataFrame, seeds: dict[tuple[str, str], list[float]]) -> dict[str, dict[str, Point]]:
    found: dict[str, dict[str, Point]] = {}
    for row in table[np.isfinite(table["mean"])].to_dict("records"):
        label, metric = str(row["label"]), str(row["metric"])
        scale = describe(metric).scale
        mean, low, high = (float(row[key]) * scale for key in ("mean", "mean_low", "mean_high"))
        found.setdefault(metric, {})[label] = Point(
            mean=mean,
            low=low if math.isfinite(low) else mean,
            high=high if math.isfinite(high) else mean,
            seeds=tuple(value * scale for value in seeds.get((label, metric), ()) if math.isfinite(value)),
        )
    return found
