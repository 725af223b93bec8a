"""Tables of quality: the main one, and the paper's by what the grid's strategies vary."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from harness.analysis.document import Table
from harness.analysis.metrics import COSTS, QUALITY, MetricInfo
from harness.analysis.read import Run
from harness.analysis.strategies import RowStrategy
from harness.analysis.tables.build import (
    STRATEGY,
    Filled,
    build,
    figures,
    means,
    quality_table,
    seeds,
    spreads,
    timed,
    words,
)  # fmt: skip
from harness.analysis.tables.reads import generated_tokens, scaled, wall

_QUALITY = [info.key for info in QUALITY]
_COSTS = [info.key for info in COSTS]


def main_table(run: Run) -> Table | None:
    """Build quality, then cost, of every strategy."""
    caption = f"{run.manifest.grid}: costs are means over seeds and are not compared.{run.busy_note}"
    return quality_table(run, "main", "Quality and cost", _QUALITY + _COSTS, run.labels, caption=caption)


def other_table(run: Run) -> Table | None:
    """Build every metric the main table has no column for."""
    keys = [str(key) for key in run.numbers["metric"].unique() if key not in _QUALITY + _COSTS]
    caption = "Every metric that the main table has no column for."
    return quality_table(run, "further", "Further metrics", keys, run.labels, caption=caption)


def spread_table(run: Run) -> Table | None:
    """Build the standard deviations over seeds."""
    shown = run.measured(_QUALITY)
    rows = [label for label in run.labels if any(run.row(label, info.key)["n"] > 1 for info in shown)]
    if not rows:
        return None

    def column(info: MetricInfo) -> Filled:
        return spreads(info.heading, lambda label: (info, run.row(label, info.key)["std"]))

    kept = run.numbers["label"].isin(rows) & run.numbers["metric"].isin([info.key for info in shown])
    return build(
        "spread",
        "Standard deviations",
        rows,
        [STRATEGY, seeds(run), *map(column, shown)],
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
        "importance",
        "Importance metrics",
        _QUALITY,
        _with_references(run, rows),
        caption=caption,
        extra=[_part(run, "Signal", "signal")],
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
        "policies",
        "Selection policies",
        _QUALITY,
        _with_references(run, rows),
        caption=f"How positions are selected when {signal} ranks them; rows without a signal are references.",
        extra=[
            _part(run, "Policy", "policy"),
            figures("Budget (%)", lambda label: scaled(getattr(run.methods.get(label), "budget", None), 100)),
        ],
    )


def multi_axis_table(run: Run) -> Table | None:
    """Build the paper's multi-axis table, if a strategy selects on several axes."""
    if not any(len(one.axes) > 1 for one in run.methods.values()):
        return None
    rows = [label for label in run.labels if label in run.methods]
    return quality_table(
        run,
        "multi_axis",
        "Several axes",
        _QUALITY,
        rows,
        caption="Which axes select, by what policy and signal, and how much; a dash keeps everything.",
        extra=[
            _axis(run, "Positions", "position", lambda one: _joined(one.policy, one.signal, one.budget)),
            _axis(run, "Classes", "class", lambda one: str(one.classes)),
            _axis(
                run, "Samples", "sample", lambda one: _joined(one.sample_policy, one.sample_signal, one.sample_budget)
            ),
        ],
    )


def task_table(run: Run) -> Table | None:
    """Build the paper's task-specific table by regime, if any strategy trains on the student's own text."""
    regimes = {label: one.regime for label, one in run.methods.items()}
    if "on_policy" not in regimes.values():
        return None
    order = ("none", "off_policy", "on_policy")
    rows = sorted(regimes, key=lambda label: order.index(regimes[label]))
    return quality_table(
        run,
        "task_specific",
        "Off-policy and on-policy",
        [key for key in run.numbers["metric"].unique() if key not in _COSTS],
        rows,
        caption="By whose text is trained on: the data's (off-policy) or the student's own (on-policy). Generated: "
        "tokens that the student wrote to be trained on, and the seconds that took, which are no part of training's; "
        f"means over seeds.{run.busy_note}",
        extra=[
            words("Regime", lambda label: {"off_policy": "off-policy", "on_policy": "on-policy"}.get(regimes[label])),
            _part(run, "Criterion", "criterion"),
            means(run, "Generated tokens", generated_tokens, "{:,.0f}"),
            timed(run, "Generation (s)", lambda label: run.mean(label, partial(wall, phase="rollout"), timed=True)),
            timed(run, "Training (s)", lambda label: run.mean(label, partial(wall, phase="train"), timed=True)),
        ],
    )


def _with_references(run: Run, rows: Sequence[str]) -> list[str]:
    """Add, in the manifest's order, what every such table is read against: rows that no signal ranks positions of."""
    references = {label for label, one in run.methods.items() if one.signal is None and set(one.axes) <= {"position"}}
    return [label for label in run.labels if label in references or label in rows]


def _part(run: Run, heading: str, part: str) -> Filled:
    return words(heading, lambda label: getattr(run.methods.get(label), part, None))


def _axis(run: Run, heading: str, axis: str, say: Callable[[RowStrategy], str]) -> Filled:
    return words(heading, lambda label: say(run.methods[label]) if axis in run.methods[label].axes else None)


def _joined(policy: object, signal: object, budget: float | None) -> str:
    parts = [str(policy), "" if signal is None else f"by {signal}", "" if budget is None else _share(budget)]
    return ", ".join(part for part in parts if part)


def _share(budget: float | None) -> str:
    return "none" if budget is None else f"{100 * budget:g}%"
