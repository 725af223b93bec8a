"""What tables of strategies share: columns, the cells of a row, and how a difference is told."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.analysis.document import Cell, Column, Table
from harness.analysis.metrics import MetricInfo
from harness.analysis.read import Run

NOTHING = Cell(text="—")


def number(value: float | None, text: str = "{:.3g}", *, hint: str = "") -> Cell:
    """Return the cell of a number; an em dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    return Cell(text=text.format(value), value=value, hint=hint)


def strategy_column() -> Column:
    """Return the column of the strategies' names."""
    return Column(heading="Strategy", numeric=False)


def seeds_cell(run: Run, label: str) -> Cell:
    """Return how many trials finished of how many planned, and what became of the others."""
    trials = run.frames.trials
    status = trials.loc[trials["label"] == label, "status"].value_counts().to_dict()
    rest = ", ".join(f"{status[name]} {name}" for name in ("failed", "missing") if name in status)
    done = status.get("finished", 0)
    text = f"{done}/{sum(status.values())}"
    return Cell(text=f"{text} ({rest})" if rest else text, value=float(done))


def metric_column(info: MetricInfo) -> Column:
    """Return the column of a metric."""
    return Column(heading=info.heading, direction=info.direction)


def metric_cell(run: Run, label: str, info: MetricInfo) -> Cell:
    """Return mean and standard deviation, marked by the corrected comparison with the baseline."""
    row = run.row(label, info.key)
    value = row["mean"]
    if row["n"] == 0:
        return NOTHING
    spread = f" ± {info.show_spread(row['std'])}" if row["n"] > 1 and not info.cost else ""
    verdict = row["verdict"] if isinstance(row.get("verdict"), str) else None
    return Cell(
        text=info.show(value) + spread,
        value=None if math.isnan(value) else value * info.scale,
        mark=verdict,
        hint=difference_text(info, row) if verdict else "",
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
    run: Run,
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
        run: the run.
        name: the table's slug.
        title: its title.
        keys: metrics to show, those that nothing measured are left out.
        rows: labels, in order.
        caption: what it shows; the rule behind the marks is added.
        extra: further columns between the seeds and the metrics, and what stands in them.

    Returns:
        The table; None if nothing measured any of the metrics.
    """
    shown = run.measured(keys)
    if not shown or not rows:
        return None
    numbers = run.numbers
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
                seeds_cell(run, label),
                *(fill(label) for _, fill in extra),
                *(metric_cell(run, label, info) for info in shown),
            )
            for label in rows
        ),
        caption=f"{caption} {rule(run)}",
        numbers=numbers[numbers["label"].isin(rows) & numbers["metric"].isin(kept)].reset_index(drop=True),
    )


def rule(run: Run) -> str:
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
