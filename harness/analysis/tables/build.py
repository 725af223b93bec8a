"""What tables share: columns that fill themselves from a row, and how a difference is told.

A row is a strategy's label, or a mapping that holds one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.metrics import Direction, MetricInfo
from harness.analysis.read import Run
from harness.records.record import Record

NOTHING = Cell(text="—")

# A column, and its cell in a row.
Filled = tuple[Column, Callable[[Any], Cell]]
# A row's key, or a function of the row.
Read = str | Callable[[Any], Any]


def build(
    name: str, title: str, rows: Iterable[Any], columns: Sequence[Filled], *, caption: str, numbers: pd.DataFrame
) -> Table:
    """Build a table from its rows and what each column says of a row."""
    return Table(
        name=name,
        title=title,
        columns=tuple(column for column, _ in columns),
        rows=tuple(tuple(fill(row) for _, fill in columns) for row in rows),
        caption=caption,
        numbers=numbers,
    )


def words(heading: str, read: Read, *, code: bool = False) -> Filled:
    """Return a column of texts; an em dash where there is none."""
    of = itemgetter(read) if isinstance(read, str) else read

    def fill(row: Any) -> Cell:
        text = of(row)
        return NOTHING if text is None or text == "" else Cell(text=str(text))

    return Column(heading=heading, numeric=False, code=code), fill


def figures(heading: str, read: Read, text: str = "{:.3g}", *, direction: Direction | None = None) -> Filled:
    """Return a column of numbers; an em dash where there is none."""
    of = itemgetter(read) if isinstance(read, str) else read
    return Column(heading=heading, direction=direction), lambda row: number(of(row), text)


def means(run: Run, heading: str, read: Callable[[Record], float | None], text: str = "{:.3g}") -> Filled:
    """Return a column of means over a label's finished records."""
    return figures(heading, lambda label: run.mean(label, read), text)


def timed(run: Run, heading: str, read: Read, text: str = "{:.1f}", *, also: str | None = None) -> Filled:
    """Return a column of what follows from seconds, marked where they are those of busy trials.

    `also` is a label that every row is set against: where it is busy, so is every row.
    """
    column, fill = figures(heading, read, text)
    return column, lambda row: _marked(fill(row), busy=not run.busy.isdisjoint({_label(row), also}))


def _marked(cell: Cell, *, busy: bool) -> Cell:
    return replace(cell, text=f"{cell.text} (busy)") if busy and cell is not NOTHING else cell


def spreads(heading: str, read: Callable[[Any], tuple[MetricInfo, float]]) -> Filled:
    """Return a column of deviations, printed as those of a metric."""

    def fill(row: Any) -> Cell:
        info, value = read(row)
        return NOTHING if pd.isna(value) else Cell(text=info.show_spread(value), value=value * info.scale)

    return Column(heading=heading), fill


def _label(row: Any) -> str:
    return str(row if isinstance(row, str) else row["label"])


STRATEGY = words("Strategy", _label)


SEED: Filled = (
    Column(heading="Seed"),
    lambda row: NOTHING if pd.isna(row["seed"]) else Cell(text=str(row["seed"]), value=float(row["seed"])),
)


def number(value: float | None, text: str = "{:.3g}", *, hint: str = "") -> Cell:
    """Return the cell of a number; an em dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    return Cell(text=text.format(value), value=value, hint=hint)


def seeds(run: Run) -> Filled:
    """Return the column of how many trials finished of how many planned, and what became of the others."""
    by_label = dict(iter(run.frames.trials.groupby("label")["status"]))

    def fill(row: Any) -> Cell:
        status = by_label[_label(row)]
        rest, done = counts(status, "failed", "missing"), int((status == "finished").sum())
        text = f"{done}/{len(status)}"
        return Cell(text=f"{text} ({rest})" if rest else text, value=float(done))

    return Column(heading="Seeds"), fill


def counts(status: "pd.Series[str]", *names: str) -> str:
    """Say how many trials ended in each of these ways; those that none ended in are left out."""
    return ", ".join(f"{num} {name}" for name in names if (num := int((status == name).sum())))


def metric_column(run: Run, info: MetricInfo) -> Filled:
    """Return the column of a metric."""
    return Column(heading=info.heading, direction=info.direction), lambda row: metric_cell(run, _label(row), info)


def metric_cell(run: Run, label: str, info: MetricInfo) -> Cell:
    """Return mean and standard deviation, marked by the corrected comparison with the baseline."""
    row = run.row(label, info.key)
    value = row["mean"]
    if row["n"] == 0:
        return NOTHING
    spread = f" ± {info.show_spread(row['std'])}" if row["n"] > 1 and not info.cost else ""
    verdict = row["verdict"] if isinstance(row.get("verdict"), str) else None
    cell = Cell(
        text=info.show(value) + spread,
        value=None if math.isnan(value) else value * info.scale,
        mark=verdict,
        hint=difference_text(info, row) if verdict else "",
    )
    return _marked(cell, busy=info.cost and info.unit == "s" and label in run.busy)


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
    run: Run,
    name: str,
    title: str,
    keys: Sequence[str],
    rows: Sequence[str],
    *,
    caption: str,
    extra: Sequence[Filled] = (),
) -> Table | None:
    """Build a table of labels by metrics; None if nothing measured any.

    The rule behind the marks is added to the caption; further columns stand between the seeds and the metrics.
    """
    shown = run.measured(keys)
    if not shown or not rows:
        return None
    kept = run.numbers["label"].isin(rows) & run.numbers["metric"].isin([info.key for info in shown])
    return build(
        name,
        title,
        rows,
        [STRATEGY, seeds(run), *extra, *(metric_column(run, info) for info in shown)],
        caption=f"{caption} {_rule(run)}",
        numbers=run.numbers[kept].reset_index(drop=True),
    )


def _rule(run: Run) -> str:
    """Say what stands in a table of metrics, and the rule behind its marks."""
    manifest = run.manifest
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
