"""What every table is built from: the grid, read once, and the cells of a row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.cells import Evidence, gather
from harness.analysis.document import Cell, Column, Mark, Table
from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import MetricInfo, describe
from harness.analysis.strategies import Method, methods
from harness.analysis.tables.numbers import tidy
from harness.records.record import Manifest, Record

NOTHING = Cell(text="—")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid, read once for all its tables.

    Attributes:
        frames: its records as frames.
        manifest: its trials and baseline.
        evidence: its finished values and single items.
        numbers: `numbers.tidy`.
        rows: its rows by label and metric.
        methods: the strategy of each label that left a record.
        records: the finished records of each label.
        seed: of resampling.
    """

    frames: Frames
    manifest: Manifest
    evidence: Evidence
    numbers: pd.DataFrame
    rows: Mapping[tuple[str, str], dict[str, Any]]
    methods: dict[str, Method]
    records: dict[str, tuple[Record, ...]]
    seed: int

    @property
    def labels(self) -> list[str]:
        """The labels, in the manifest's order."""
        return labels(self.manifest)

    def measured(self, keys: Sequence[str]) -> list[MetricInfo]:
        """Return those metrics that any label has a value of."""
        found = set(self.numbers.loc[self.numbers["n"] > 0, "metric"])
        return [describe(key) for key in keys if key in found]

    def row(self, label: str, metric: str) -> dict[str, Any]:
        """Return one label's numbers of one metric."""
        return self.rows[label, metric]


def read(frames: Frames, manifest: Manifest, *, seed: int = 0) -> Grid:
    """Read a grid for its tables."""
    records: dict[str, tuple[Record, ...]] = dict.fromkeys(labels(manifest), ())
    for entry, record in zip(manifest.trials, frames.records, strict=True):
        if record is not None and record.status == "finished":
            records[entry.label] = (*records[entry.label], record)
    evidence = gather(frames.metrics, frames.tables.get("items"))
    numbers = tidy(frames, manifest, seed=seed, evidence=evidence)
    rows = [{str(key): value for key, value in row.items()} for row in numbers.to_dict("records")]
    return Grid(
        frames=frames,
        manifest=manifest,
        evidence=evidence,
        numbers=numbers,
        rows={(row["label"], row["metric"]): row for row in rows},
        methods=methods(frames, manifest),
        records=records,
        seed=seed,
    )


def mean(grid: Grid, label: str, read_one: Callable[[Record], float | None]) -> float | None:
    """Return the mean of a number over a label's finished records; None if no record has it."""
    found = [value for record in grid.records[label] if (value := read_one(record)) is not None]
    return sum(found) / len(found) if found else None


def baseline_mean(grid: Grid, read_one: Callable[[Record], float | None]) -> float | None:
    """Return the same for the grid's baseline; None without one."""
    return mean(grid, grid.manifest.baseline, read_one) if grid.manifest.baseline in grid.records else None


def number(value: float | None, text: str = "{:.3g}", *, hint: str = "") -> Cell:
    """Return the cell of a number; an em dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    return Cell(text=text.format(value), value=value, hint=hint)


def strategy_column() -> Column:
    """Return the column of the strategies' names."""
    return Column(heading="Strategy", numeric=False)


def seeds_cell(grid: Grid, label: str) -> Cell:
    """Return how many trials finished of how many planned, and what became of the others."""
    trials = grid.frames.trials
    status = trials.loc[trials["label"] == label, "status"].value_counts().to_dict()
    rest = ", ".join(f"{status[name]} {name}" for name in ("failed", "missing") if name in status)
    done = status.get("finished", 0)
    text = f"{done}/{sum(status.values())}"
    return Cell(text=f"{text} ({rest})" if rest else text, value=float(done))


def metric_column(info: MetricInfo) -> Column:
    """Return the column of a metric."""
    return Column(heading=info.heading, direction=info.direction)


def metric_cell(grid: Grid, label: str, info: MetricInfo) -> Cell:
    """Return mean and standard deviation, marked by the corrected comparison with the baseline."""
    row = grid.row(label, info.key)
    value = row["mean"]
    if row["n"] == 0:
        return NOTHING
    spread = f" ± {info.show_spread(row['std'])}" if row["n"] > 1 and not info.cost else ""
    verdict = row.get("verdict")
    return Cell(
        text=info.show(value) + spread,
        value=None if math.isnan(value) else value * info.scale,
        mark=_mark(verdict),
        hint=difference_text(info, row) if isinstance(verdict, str) else "",
    )


def difference_text(info: MetricInfo, row: Mapping[Any, Any]) -> str:
    """Say a difference from the baseline with both its intervals, in one sentence."""
    head = f"{row['verdict']}: {info.show_difference(row['difference'])}"
    if math.isnan(row["ci_low"]):
        return f"{head} against {row['baseline']}, without an interval"
    return (
        f"{head} {interval_text(info, row, 'ci')} against {row['baseline']} over {row['covers']}; corrected for "
        f"{row['family']:.0f} comparisons {interval_text(info, row, 'corrected')}, p = {row['p_corrected']:.2g}"
    )


def interval_text(info: MetricInfo, row: Mapping[Any, Any], kind: str) -> str:
    """Print an interval of a difference: "ci" for one comparison alone, "corrected" for all of a metric."""
    return f"[{info.show_difference(row[f'{kind}_low'])}, {info.show_difference(row[f'{kind}_high'])}]"


def quality_table(
    grid: Grid,
    *,
    name: str,
    title: str,
    keys: Sequence[str],
    rows: Sequence[str],
    caption: str,
    extra: Sequence[tuple[Column, Callable[[str], Cell]]] = (),
) -> Table | None:
    """Build a table of strategies by metrics.

    Args:
        grid: the grid.
        name: the table's slug.
        title: its title.
        keys: metrics to show, those that nothing measured are left out.
        rows: labels, in order.
        caption: what it shows; the rule behind the marks is added.
        extra: further columns between the seeds and the metrics, and what stands in them.

    Returns:
        The table; None if nothing measured any of the metrics.
    """
    shown = grid.measured(keys)
    if not shown or not rows:
        return None
    numbers = grid.numbers
    kept = [info.key for info in shown]
    return Table(
        name=name,
        title=title,
        columns=(
            strategy_column(),
            Column(heading="Seeds"),
            *(column for column, _ in extra),
            *map(metric_column, shown),
        ),
        rows=tuple(
            (
                Cell(text=label),
                seeds_cell(grid, label),
                *(fill(label) for _, fill in extra),
                *(metric_cell(grid, label, info) for info in shown),
            )
            for label in rows
        ),
        caption=f"{caption} {rule(grid)}",
        numbers=numbers[numbers["label"].isin(rows) & numbers["metric"].isin(kept)].reset_index(drop=True),
    )


def rule(grid: Grid) -> str:
    """Say what stands in a table of metrics, and the rule behind its marks."""
    manifest = grid.manifest
    if manifest.baseline is None:
        marks = "The grid names no baseline, so nothing is compared."
    else:
        marks = (
            f"Better or worse than {manifest.baseline} is marked only where the interval of the paired difference, "
            "corrected for the number of comparisons of that metric (Holm, 5% in all), excludes zero."
        )
    return (
        f"Workload {manifest.workload}, {manifest.split} split. Mean ± standard deviation over seeds; seeds are "
        f"finished/planned. {marks}"
    )


_MARKS: dict[str, Mark] = {
    "better": "better",
    "worse": "worse",
    "different": "different",
    "not distinguishable": "not distinguishable",
    "untested": "untested",
}


def _mark(verdict: object) -> Mark | None:
    return _MARKS[verdict] if isinstance(verdict, str) else None
