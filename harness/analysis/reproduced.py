"""A trial beside its record in a report: what differs, by how much, beside the spread of seeds and the conditions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis import settings
from harness.analysis.metrics import describe
from harness.records.record import Record

# What a record's workload is not held to: what its trials are found by, and where its files are.
PLACES = ("name", "seeds", "data.data_files", "teacher.path", "student.path")

_UNKNOWN = "not recorded"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric that came out different.

    Attributes:
        metric: its key in a record.
        recorded: the report's value; nan where it has none.
        measured: the value now; nan where there is none.
        only_error: whether the values are equal and their standard errors differ.
    """

    metric: str
    recorded: float
    measured: float
    only_error: bool = False

    @property
    def size(self) -> float:
        """How far the value moved."""
        return self.measured - self.recorded


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """One trial, run again.

    Attributes:
        label: of its row.
        seed: its seed.
        spreads: of each metric that either record has, its standard deviation over the seeds that the report has of the
            label; nan for fewer than two.
        metrics: those that differ.
        num_tables: tables that either record has.
        tables: those that differ, in a byte or in content.
        conditions: what it was computed under otherwise, and how.
    """

    label: str
    seed: int | None
    spreads: Mapping[str, float]
    metrics: tuple[Difference, ...]
    num_tables: int
    tables: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def name(self) -> str:
        """How the trial is called on screen."""
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    @property
    def equal(self) -> bool:
        """Whether every metric is equal to the bit and every table to the byte."""
        return not self.metrics and not self.tables


def compare_records(
    label: str, recorded: Record, measured: Record, *, siblings: Iterable[Record], tables: Mapping[str, str]
) -> Reproduced:
    """Compare a trial with its record in a report.

    Args:
        label: its row in the report.
        recorded: the report's record.
        measured: the record of now.
        siblings: all records of the label that the report has.
        tables: how each table that is not equal to the byte differs, by its name.
    """
    others = [record.metrics for record in siblings]
    spreads, differing = dict[str, float](), []
    for key in dict.fromkeys([*recorded.metrics, *measured.metrics]):
        values = [metrics[key].value for metrics in others if key in metrics]
        spreads[key] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        before, now = recorded.metrics.get(key), measured.metrics.get(key)
        # As text, because a number that is not one differs from itself.
        if repr(before) != repr(now):
            one, other = (math.nan if each is None else each.value for each in (before, now))
            differing.append(Difference(metric=key, recorded=one, measured=other, only_error=one == other))
    return Reproduced(
        label=label,
        seed=recorded.seed,
        spreads=spreads,
        metrics=tuple(differing),
        num_tables=len(recorded.tables.keys() | measured.tables.keys()),
        tables=tuple(f"{name} ({how})" for name, how in tables.items()),
        conditions=tuple(_conditions(recorded, measured)),
    )


def _conditions(recorded: Record, measured: Record) -> Iterable[str]:
    """Say what two records of one trial were computed under otherwise."""
    pairs = (
        ("", recorded.environment | {"core": recorded.core}, measured.environment | {"core": measured.core}),
        ("source of ", recorded.sources, measured.sources),
        ("resources.", recorded.workload.get("resources", {}), measured.workload.get("resources", {})),
    )
    for prefix, before, now in pairs:
        one, other = settings.flat(before), settings.flat(now)
        for key in settings.changed(before, now):
            yield f"{prefix}{key}: {one.get(key, _UNKNOWN)}, now {other.get(key, _UNKNOWN)}"


def changed_workload(recorded: Mapping[str, object], now: Mapping[str, object], ignored: Sequence[str]) -> list[str]:
    """Say which of a record's settings a workload has otherwise now; settings that are new since do not count.

    Args:
        recorded: the workload in a record.
        now: the workload as it is.
        ignored: names of settings, or of sections with all in them, that do not count.
    """
    before, after = settings.flat(recorded), settings.flat(now)
    return [
        f"{key} was {value} and is {after.get(key, 'gone')}"
        for key, value in before.items()
        if after.get(key, "null") != value and not any(key == each or key.startswith(f"{each}.") for each in ignored)
    ]


def frame(trials: Iterable[Reproduced]) -> pd.DataFrame:
    """Return what differs as a table.

    Returns:
        label, seed, metric, recorded, measured, difference, spread (over the report's seeds), in the metric's own
        unit; one row per metric that differs, and one with an empty metric for a trial that is equal to the byte.
    """
    rows: list[dict[str, object]] = []
    for trial in trials:
        head: dict[str, object] = {"label": trial.label, "seed": trial.seed}
        rows += [
            head
            | {"metric": each.metric, "recorded": each.recorded, "measured": each.measured}
            | {"difference": each.size, "spread": trial.spreads[each.metric]}
            for each in trial.metrics
            if not each.only_error
        ]
        if trial.equal:
            rows.append(head | {"metric": ""})
    columns = ["label", "seed", "metric", "recorded", "measured", "difference", "spread"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"})


def summary(trials: Sequence[Reproduced], metrics: Sequence[str]) -> list[list[str]]:
    """Summarise what differs by label, as rows of text, the heading first.

    A cell holds the largest difference of a metric over the label's trials, without its sign, and beside it the
    standard deviation over the report's seeds, both in the printed unit.
    """
    infos = [describe(metric) for metric in metrics]
    rows = [["strategy", "trials", "equal to the byte", *(info.heading for info in infos)]]
    for label in dict.fromkeys(trial.label for trial in trials):
        own = [trial for trial in trials if trial.label == label]
        cells = []
        for info in infos:
            sizes = [abs(each.size) for trial in own for each in trial.metrics if each.metric == info.key]
            spread = own[0].spreads.get(info.key, math.nan) * info.scale
            beside = "" if math.isnan(spread) else f" ({spread:.2g})"
            cells.append(f"{max(sizes, default=0.0) * info.scale:.2g}{beside}")
        rows.append([label, str(len(own)), str(sum(trial.equal for trial in own)), *cells])
    return rows
