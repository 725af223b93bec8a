"""Tables of quality: the main one, and the paper's by what the grid's strategies vary."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.metrics import COSTS, QUALITY
from harness.analysis.read import Run
from harness.analysis.strategies import RowStrategy
from harness.analysis.tables.build import NOTHING, number, quality_table, seeds_cell, strategy_column
from harness.analysis.tables.reads import generated_tokens

_QUALITY = [info.key for info in QUALITY]
_COSTS = [info.key for info in COSTS]


def main_table(run: Run) -> Table | None:
    """Build quality, then cost, of every strategy."""
    caption = f"{run.manifest.grid}: costs are means over seeds and are not compared."
    return quality_table(
        run, name="main", title="Quality and cost", keys=_QUALITY + _COSTS, rows=run.labels, caption=caption
    )


def other_table(run: Run) -> Table | None:
    """Build every metric the main table has no column for."""
    keys = [str(key) for key in run.numbers["metric"].unique() if key not in _QUALITY + _COSTS]
    caption = "Every metric that the main table has no column for."
    return quality_table(run, name="further", title="Further metrics", keys=keys, rows=run.labels, caption=caption)


def spread_table(run: Run) -> Table | None:
    """Build the standard deviations over seeds."""
    shown = run.measured(_QUALITY)
    rows = [label for label in run.labels if any(run.row(label, info.key)["n"] > 1 for info in shown)]
    if not rows:
        return None
    cells = []
    for label in rows:
        stds = [(info, run.row(label, info.key)["std"]) for info in shown]
        told = [
            NOTHING if pd.isna(std) else Cell(text=info.show_spread(std), value=std * info.scale) for info, std in stds
        ]
        cells.append((Cell(text=label), seeds_cell(run, label), *told))
    kept = run.numbers["label"].isin(rows) & run.numbers["metric"].isin([info.key for info in shown])
    return Table(
        name="spread",
        title="Standard deviations",
        columns=(strategy_column(), Column(heading="Seeds"), *(Column(heading=info.heading) for info in shown)),
        rows=tuple(cells),
        caption="Sample standard deviation (ddof 1) over seeds. With three seeds it is itself uncertain by a factor of "
        "0.5 to 6 (95%). Rows without randomness have none.",
        numbers=run.numbers.loc[kept, ["label", "metric", "std", "n"]].reset_index(drop=True),
    )


def importance_table(run: Run) -> Table | None:
    """Build the paper's table of importance metrics, if several signals rank positions under one policy and budget."""
    ranked = {label: one for label, one in run.methods.items() if one.signal is not None and one.axes == ("position",)}
    settings = Counter((one.policy, one.budget) for one in ranked.values())
    common, signals = max(
        ((key, {one.signal for one in ranked.values() if (one.policy, one.budget) == key}) for key in settings),
        # Among budgets with as many signals, the paper's 20%.
        key=lambda pair: (len(pair[1]), pair[0][1] == 0.2),
        default=(None, set()),
    )
    if common is None or len(signals) < 2:
        return None
    rows = [label for label, one in ranked.items() if (one.policy, one.budget) == common]
    caption = (
        f"What ranks positions, under policy {common[0]} at a budget of {_share(common[1])}; rows without a signal are "
        "references."
    )
    return quality_table(
        run,
        name="importance",
        title="Importance metrics",
        keys=_QUALITY,
        rows=_with_references(run, rows),
        caption=caption,
        extra=((Column(heading="Signal", numeric=False), lambda label: _text(_method(run, label, "signal"))),),
    )


def policy_table(run: Run) -> Table | None:
    """Build the paper's table of selection policies, if several policies use one signal."""
    ranked = {
        label: one
        for label, one in run.methods.items()
        if one.signal is not None and one.policy is not None and one.axes == ("position",)
    }
    found = Counter(one.signal for one in ranked.values())
    if not found:
        return None
    signal = found.most_common(1)[0][0]
    rows = [label for label, one in ranked.items() if one.signal == signal]
    if len({ranked[label].policy for label in rows}) < 2:
        return None
    return quality_table(
        run,
        name="policies",
        title="Selection policies",
        keys=_QUALITY,
        rows=_with_references(run, rows),
        caption=f"How positions are selected when {signal} ranks them; rows without a signal are references.",
        extra=(
            (Column(heading="Policy", numeric=False), lambda label: _text(_method(run, label, "policy"))),
            (Column(heading="Budget (%)"), lambda label: _budget(run, label)),
        ),
    )


def multi_axis_table(run: Run) -> Table | None:
    """Build the paper's multi-axis table, if a strategy selects on several axes."""
    if not any(len(one.axes) > 1 for one in run.methods.values()):
        return None
    rows = [label for label in run.labels if label in run.methods]

    def column(axis: str) -> tuple[Column, Callable[[str], Cell]]:
        return Column(
            heading={"position": "Positions", "class": "Classes", "sample": "Samples"}[axis], numeric=False
        ), lambda label: _axis(run.methods[label], axis)

    return quality_table(
        run,
        name="multi_axis",
        title="Several axes",
        keys=_QUALITY,
        rows=rows,
        caption="Which axes select, by what policy and signal, and how much; a dash keeps everything.",
        extra=[column(axis) for axis in ("position", "class", "sample")],
    )


def task_table(run: Run) -> Table | None:
    """Build the paper's task-specific table by regime, if any strategy trains on the student's own text."""
    regimes = {label: one.regime for label, one in run.methods.items()}
    if "on_policy" not in regimes.values():
        return None
    order = ("none", "off_policy", "on_policy")
    rows = sorted(regimes, key=lambda label: order.index(regimes[label]))
    told = {"none": "—", "off_policy": "off-policy", "on_policy": "on-policy"}
    return quality_table(
        run,
        name="task_specific",
        title="Off-policy and on-policy",
        keys=[key for key in run.numbers["metric"].unique() if key not in _COSTS],
        rows=rows,
        caption="By whose text is trained on: the data's (off-policy) or the student's own (on-policy). Generated: "
        "tokens that the student wrote to be trained on, and the seconds that took, which are no part of training's; "
        "means over seeds.",
        extra=(
            (Column(heading="Regime", numeric=False), lambda label: Cell(text=told[regimes[label]])),
            (Column(heading="Criterion", numeric=False), lambda label: _text(_method(run, label, "criterion"))),
            (
                Column(heading="Generated tokens"),
                lambda label: number(run.mean(label, generated_tokens), "{:,.0f}"),
            ),
            (
                Column(heading="Generation (s)"),
                lambda label: number(run.mean(label, lambda record: record.cost.wall_s.get("rollout")), "{:.1f}"),
            ),
            (
                Column(heading="Training (s)"),
                lambda label: number(run.mean(label, lambda record: record.cost.wall_s.get("train")), "{:.1f}"),
            ),
        ),
    )


def paper_tables(run: Run) -> Iterator[Table | None]:
    """Yield the paper's tables of quality; None for those this grid cannot fill."""
    yield importance_table(run)
    yield policy_table(run)
    yield multi_axis_table(run)
    yield task_table(run)


def _with_references(run: Run, rows: Sequence[str]) -> list[str]:
    """Add, in the manifest's order, what every such table is read against: rows that no signal ranks positions of."""
    references = {label for label, one in run.methods.items() if one.signal is None and set(one.axes) <= {"position"}}
    return [label for label in run.labels if label in references or label in rows]


def _method(run: Run, label: str, part: str) -> object:
    one: RowStrategy | None = run.methods.get(label)
    return None if one is None else getattr(one, part)


def _text(value: object) -> Cell:
    return NOTHING if value is None else Cell(text=str(value))


def _budget(run: Run, label: str) -> Cell:
    one = run.methods.get(label)
    return number(None if one is None or one.budget is None else 100 * one.budget)


def _axis(one: RowStrategy, axis: str) -> Cell:
    if axis not in one.axes:
        return NOTHING
    if axis == "class":
        return Cell(text=str(one.classes))
    if axis == "sample":
        return Cell(text=_joined(one.sample_policy, one.sample_signal, one.sample_budget))
    return Cell(text=_joined(one.policy, one.signal, one.budget))


def _joined(policy: object, signal: object, budget: float | None) -> str:
    parts = [str(policy), "" if signal is None else f"by {signal}", "" if budget is None else _share(budget)]
    return ", ".join(part for part in parts if part)


def _share(budget: float | None) -> str:
    return "none" if budget is None else f"{100 * budget:g}%"
