"""Quality at equal cost: each strategy beside the baseline trained for as long as costs the same.

A strategy that supervises a fifth of the positions costs less than the baseline, so a loss of quality may be worth it.
The rows that train as the baseline does, on random shares of the sequences, show what the baseline reaches at lower
cost; between two of them it is interpolated, linearly in the logarithm of the cost, seed by seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.inference import Spread, decompose, half_width, holm, join, tail
from harness.analysis.metrics import MetricInfo
from harness.analysis.read import Run
from harness.analysis.statistics import verdict
from harness.analysis.tables.build import NOTHING, STRATEGY, Filled, build
from harness.analysis.tables.reads import alone_seconds, flops
from harness.records.record import Record

_METRICS = ("accuracy", "heldout_loss")
# Rows of the baseline's kind that make a curve.
_FEWEST = 3


_COSTS: dict[str, Callable[[Record], float | None]] = {
    "supervised positions": lambda record: getattr(record.selection, "supervised_positions", None),
    "FLOPs": flops,
    # Neither a busy trial's seconds nor what the baseline reaches in them say anything.
    "training seconds": lambda record: None if record.busy else alone_seconds(record),
}


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A strategy's value minus the baseline's at the strategy's cost: the mean over seeds, and its variance by them."""

    difference: float
    spread: Spread


def matched_table(run: Run) -> Table | None:
    """Build the differences at equal cost; None if fewer than three rows tell what the baseline reaches at what."""
    controls = _controls(run)
    shown = run.measured(_METRICS)
    if len(controls) < _FEWEST or not shown:
        return None
    rows = [label for label in run.labels if label in run.methods and run.methods[label].trained]
    rows = [label for label in rows if label not in controls]
    columns: list[Filled] = []
    numbers: list[dict[str, object]] = []
    for cost, read in _COSTS.items():
        for info in shown:
            cells = _compared({label: _match(run, label, controls, info.key, read) for label in rows}, info)
            column = Column(heading=f"{info.heading} at equal {cost}", direction=info.direction)
            columns.append((column, {label: cell for label, (cell, _) in cells.items()}.__getitem__))
            numbers += [{"label": label, "cost": cost, "metric": info.key, **row} for label, (_, row) in cells.items()]
    if not rows or all(fill(label).value is None for _, fill in columns for label in rows):
        return None
    return build(
        "matched",
        "Quality at equal cost",
        rows,
        [STRATEGY, *columns],
        caption=(
            f"Difference from {run.manifest.baseline} trained on as many randomly chosen sequences as cost the same, "
            "with its learning rate schedule shortened accordingly: mean over seeds, with a 95% interval over seeds. "
            f"What {run.manifest.baseline} reaches at a cost is interpolated between {len(controls)} rows "
            f"({', '.join(controls)}), linearly in the logarithm of the cost. Marked only where the difference, "
            "corrected for the number of strategies (Holm, 5% in all), is not zero. A dash: a cost beyond those rows. "
            f"Seconds are those of the machine at hand.{run.busy_note}"
        ),
        numbers=pd.DataFrame(numbers),
    )


def _controls(run: Run) -> list[str]:
    """Return the baseline, and the rows that differ from it only in learning from a random share of the sequences."""
    baseline = run.methods.get(run.manifest.baseline or "")
    if baseline is None or not baseline.trained:
        return []
    # Whatever the baseline's own samples are, the others may be a random share.
    other: dict[str, Any] = {"source": "", "sample_policy": None, "sample_budget": None}
    return [
        label
        for label, one in run.methods.items()
        if (one.sample_policy is None or one.sample_policy.name == "random")
        and replace(one, **other) == replace(baseline, **other)
    ]


def _match(
    run: Run, label: str, controls: list[str], metric: str, read: Callable[[Record], float | None]
) -> Matched | None:
    """Compare a strategy with the baseline at its own cost, seed by seed; None where that cost is out of reach."""
    curves = _curves(run, controls, metric, read)
    differences = []
    for seed, (cost, value) in _points(run, label, metric, read).items():
        curve = curves.get(seed, [])
        if len(curve) < _FEWEST or not curve[0][0] <= cost <= curve[-1][0]:
            return None
        costs, values = np.array(curve).T
        differences.append(value - float(np.interp(np.log(cost), np.log(costs), values)))
    if not differences:
        return None
    found = np.array(differences)
    return Matched(difference=float(found.mean()), spread=decompose(found[None], None))


def _curves(
    run: Run, controls: list[str], metric: str, read: Callable[[Record], float | None]
) -> Mapping[int | None, list[tuple[float, float]]]:
    """Return what the baseline reaches by what it costs, in ascending order of cost, for each seed."""
    curves: dict[int | None, list[tuple[float, float]]] = {}
    for label in controls:
        for seed, point in _points(run, label, metric, read).items():
            curves.setdefault(seed, []).append(point)
    return {seed: sorted(points) for seed, points in curves.items()}


def _points(
    run: Run, label: str, metric: str, read: Callable[[Record], float | None]
) -> dict[int | None, tuple[float, float]]:
    """Return a label's cost and value for each seed that has both."""
    cell = run.evidence.cells.get((label, metric))
    if cell is None:
        return {}
    values = dict(zip(cell.seeds, cell.values.tolist(), strict=True))
    found = {}
    more = () if run.manifest.second_look is None else run.manifest.second_look.seeds
    for record in run.records[label]:
        if record.seed in more:  # the controls need not have them
            continue
        cost = read(record)
        if cost and np.isfinite(values.get(record.seed, np.nan)):
            found[record.seed] = (cost, values[record.seed])
    return found


def _compared(matched: Mapping[str, Matched | None], info: MetricInfo) -> dict[str, tuple[Cell, dict[str, float]]]:
    """Print the differences of one metric at one cost, corrected for their number."""
    nothing = {"difference": np.nan, "ci_half_width": np.nan, "p_corrected": np.nan}
    cells = dict.fromkeys(matched, (NOTHING, nothing))
    known = {label: one for label, one in matched.items() if one is not None}
    spread, differences = join([one.spread for one in known.values()]), [one.difference for one in known.values()]
    corrected, _ = holm(tail(np.array(differences), spread))
    halves = half_width(spread, 0.05, matching=True)
    for label, difference, p_value, half in zip(known, differences, corrected.tolist(), halves.tolist(), strict=True):
        text = info.show_difference(difference)
        if np.isfinite(half):
            text += f" ± {info.show_spread(half)}"
        cell = Cell(text=text, value=difference * info.scale, mark=verdict(info, difference, p_value))
        cells[label] = cell, {"difference": difference, "ci_half_width": half, "p_corrected": p_value}
    return cells
