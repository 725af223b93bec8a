"""A grid's run, read once: its records as frames, and what follows from them, each computed at most once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.cells import Evidence, gather
from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import COSTS, MetricInfo, describe
from harness.analysis.noise import noise_floor
from harness.analysis.statistics import compare, rank, summarise
from harness.analysis.strategies import RowStrategy, method
from harness.records.record import Manifest, Record

# What a method takes beyond reading a model and being evaluated: seconds of all other phases.
METHOD_SECONDS = "wall_method_s"
_NOT_THE_METHOD = ("wall_load_s", "wall_eval_s", "wall_diagnostics_s", "wall_total_s")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One label's mean of one number, as figures show it: finite, in the unit that is printed.

    The ends are those of its 95% interval, the mean itself where there is none.
    """

    mean: float
    low: float
    high: float

    @property
    def below(self) -> float:
        """How far the interval reaches down."""
        return self.mean - self.low

    @property
    def above(self) -> float:
        """How far the interval reaches up."""
        return self.high - self.mean


@dataclass(frozen=True)
class Run:
    """A grid that has run; tables, findings and figures take it, so that nothing is read or computed twice."""

    manifest: Manifest  # its trials and baseline
    frames: Frames  # its records as frames
    seed: int = 0  # of resampling; see `statistics.compare` and `noise.noise_floor`

    @cached_property
    def labels(self) -> list[str]:
        """The labels, in the manifest's order."""
        return labels(self.manifest)

    @cached_property
    def seedless(self) -> list[str]:
        """The labels without randomness (no KD, the teacher), one per trial."""
        return [str(label) for label in self.frames.trials.loc[self.frames.trials["seed"].isna(), "label"]]

    @cached_property
    def seeds(self) -> list[int]:
        """The planned seeds, in ascending order."""
        return sorted(int(seed) for seed in self.frames.trials["seed"].dropna().unique())

    @property
    def seeds_note(self) -> str:
        """What a caption says of rows that have more seeds than others; empty where a run was not looked at."""
        second = self.manifest.second_look
        if second is None:
            return ""
        first = len(self.seeds) - len(second.seeds) * bool(second.labels)
        rows = ", ".join(second.labels) or "none, as all were decided"
        return (
            f"Rows with {first + len(second.seeds)} seeds, because {first} had not decided them against the baseline: "
            f"{rows}; tests allow for the two looks."
        )

    @cached_property
    def records(self) -> dict[str, tuple[Record, ...]]:
        """The finished records of each label."""
        records: dict[str, tuple[Record, ...]] = dict.fromkeys(self.labels, ())
        for entry, record in zip(self.manifest.trials, self.frames.records, strict=True):
            if record is not None and record.status == "finished":
                records[entry.label] = (*records[entry.label], record)
        return records

    @cached_property
    def busy(self) -> frozenset[str]:
        """The labels whose seconds are of busy trials only (`Record.busy`); tables mark them."""
        return frozenset(label for label, own in self.records.items() if own and all(record.busy for record in own))

    @cached_property
    def set_aside(self) -> frozenset[str]:
        """The ids of busy trials whose seconds no mean holds: their label has others that are not busy."""
        labelled = [(label, record) for label, own in self.records.items() for record in own]
        return frozenset(record.trial_id for label, record in labelled if record.busy and label not in self.busy)

    @property
    def busy_note(self) -> str:
        """What a caption of seconds says of busy trials, after a space; empty where there are none."""
        if not self.busy and not self.set_aside:
            return ""
        marked = ", ".join(label for label in self.labels if label in self.busy) or "none"
        return (
            f" Busy, so that seconds are other work's too: a trial that had its core for less than 90% of training "
            f"(rows of such trials alone: {marked}; left out of the seconds of other rows: "
            f"{len(self.set_aside)} trials)."
        )

    def flagged(self, numbers: pd.DataFrame) -> pd.DataFrame:
        """Add to numbers by label whether seconds are busy, where any are."""
        return numbers.assign(busy=numbers["label"].isin(self.busy)) if self.busy else numbers

    @cached_property
    def stated(self) -> dict[str, Record]:
        """A record of each label that left one which states its strategy and its workload."""
        stated: dict[str, Record] = {}
        for entry, record in zip(self.manifest.trials, self.frames.records, strict=True):
            if record is not None and record.strategy:
                stated.setdefault(entry.label, record)
        return stated

    @cached_property
    def strategies(self) -> dict[str, dict[str, Any]]:
        """The strategy of each label that left a record, as the record states it."""
        return {label: record.strategy for label, record in self.stated.items()}

    @cached_property
    def methods(self) -> dict[str, RowStrategy]:
        """What each of these strategies is."""
        return {label: method(strategy) for label, strategy in self.strategies.items()}

    @cached_property
    def evidence(self) -> Evidence:
        """The finished values and single items."""
        looks = 1 if self.manifest.second_look is None else 2
        return gather(self.frames.metrics, self.frames.tables.get("items"), looks=looks)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What trials cost, as `Frames.metrics`: a row per trial and cost, `METHOD_SECONDS` among them."""
        trials = self.frames.trials
        own = [name for name in map(str, trials) if name.startswith("wall_") and name not in _NOT_THE_METHOD]
        costs = trials.assign(**{METHOD_SECONDS: trials[own].sum(axis=1, min_count=1)}).melt(
            id_vars=["trial_id", "label", "seed", "status"],
            value_vars=[*(info.key for info in COSTS), METHOD_SECONDS],
            var_name="metric",
        )
        aside = costs["trial_id"].isin(self.set_aside) & costs["metric"].str.startswith("wall_")
        costs["value"] = costs["value"].mask(aside)
        return costs.assign(num=costs["value"].notna().map({True: 1, False: None}).astype("Int64"))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Every metric and cost of every label, in the manifest's order and each metric's own unit.

        label, num_finished, num_planned, metric, mean, std, n and the interval as `statistics.summarise` gives it; a
        label of which nothing finished has its rows, without a mean and with n = 0.
        """
        keys = [*self.frames.metrics["metric"].unique(), *self.costs["metric"].unique()]
        summary = pd.concat([summarise(self.evidence), summarise(gather(self.costs))])
        ended = self.frames.trials.assign(finished=self.frames.trials["status"] == "finished")
        by_label = ended.groupby("label")["finished"]
        counts = pd.DataFrame({"num_finished": by_label.sum(), "num_planned": by_label.size()})
        every = pd.MultiIndex.from_product([self.labels, keys], names=["label", "metric"]).to_frame(index=False)
        table = every.merge(counts, left_on="label", right_index=True).merge(
            summary, on=["label", "metric"], how="left"
        )
        table["n"] = table.pop("num_seeds").astype("float64").fillna(0).astype(int)
        head = ["label", "num_finished", "num_planned", "metric", "mean", "std", "n"]
        return self.flagged(table[head + [name for name in table.columns if name not in head]])

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The numbers behind the tables: the summary without `METHOD_SECONDS`, with differences and ranks.

        The columns of `statistics.compare` are missing for costs, for the baseline, and without a baseline; rank,
        rank_worst and num_ranked are among labels with seeds.

        Raises:
            UnknownNameError: the baseline is not one of the grid's labels.
        """
        table = self.summary[self.summary["metric"] != METHOD_SECONDS]
        if self.manifest.baseline is not None:
            compared = compare(self.evidence, self.manifest.baseline, seed=self.seed)
            table = table.merge(compared, on=["label", "metric"], how="left")
        seeded = list(self.frames.trials.loc[self.frames.trials["seed"].notna(), "label"].unique())
        return table.merge(rank(self.evidence, seeded), on=["label", "metric"], how="left")

    @cached_property
    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The rows of `numbers`, by label and metric."""
        rows = [{str(key): value for key, value in row.items()} for row in self.numbers.to_dict("records")]
        return {(row["label"], row["metric"]): row for row in rows}

    @cached_property
    def points(self) -> dict[str, dict[str, Point]]:
        """Every finite mean by metric or cost and label, in the manifest's order."""
        points: dict[str, dict[str, Point]] = {}
        for row in self.summary[np.isfinite(self.summary["mean"])].to_dict("records"):
            scale = describe(str(row["metric"])).scale
            mean, low, high = (float(row[key]) * scale for key in ("mean", "mean_low", "mean_high"))
            low, high = (end if math.isfinite(end) else mean for end in (low, high))
            points.setdefault(str(row["metric"]), {})[str(row["label"])] = Point(mean=mean, low=low, high=high)
        return points

    @cached_property
    def noise(self) -> pd.DataFrame:
        """What seeds and items alone do, as `noise.noise_floor` says it."""
        return noise_floor(self.evidence, self.manifest.baseline, seed=self.seed)

    @cached_property
    def _measured(self) -> frozenset[str]:
        return frozenset(self.summary.loc[self.summary["n"] > 0, "metric"])

    def measured(self, keys: Sequence[str]) -> list[MetricInfo]:
        """Return those metrics that any label has a value of."""
        return [describe(key) for key in keys if key in self._measured]

    def row(self, label: str, metric: str) -> dict[str, Any]:
        """Return one label's numbers of one metric."""
        return self.rows[label, metric]

    def mean(self, label: str | None, read: Callable[[Record], float | None], *, timed: bool = False) -> float | None:
        """Return the mean of a number over a label's finished records; None if no record has it.

        `timed` is for what follows from seconds: busy trials are left out where the label has others.
        """
        records = [one for one in self.records.get(label or "", ()) if not timed or one.trial_id not in self.set_aside]
        values = [value for record in records if (value := read(record)) is not None]
        return sum(values) / len(values) if values else None
