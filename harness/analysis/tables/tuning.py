"""Tables of tuning: what each row chose, the best of so many trials, and the rows at the common settings beside it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.inference import Values
from harness.analysis.metrics import MetricInfo, describe
from harness.analysis.read import Run
from harness.analysis.tables.build import NOTHING, STRATEGY, Filled, build, figures, words
from harness.analysis.tuning import Tuned, expected_best, win_shares
from harness.config.overrides import describe_value

_HEADLINES = ("heldout_loss", "accuracy")


def tuning_tables(run: Run, tuned: Tuned | None) -> tuple[Table, ...]:
    """Build the tables of a run whose rows were tuned; none for another."""
    return () if tuned is None else (_choices(run, tuned), _best(run, tuned), _beside(run, tuned))


def _choices(run: Run, tuned: Tuned) -> Table:
    info, tuning, wins = describe(tuned.tuning.metric), tuned.tuning, win_shares(tuned.costs)
    rows = []
    for label in _rows(run, tuned):
        costs, draw = tuned.costs[label], tuned.chosen_draw(label)
        chosen = ", ".join(f"{path.rpartition('.')[2]} {describe_value(v)}" for path, v in tuning.chosen[label].items())
        rows.append(
            {
                "label": label,
                "chosen": chosen or "as the workload has it: every trial diverged",
                "value": np.nan if draw is None else _shown(info, costs[draw].mean()),
                "edge": ", ".join(path.rpartition(".")[2] for path in tuned.at_edge(label)),
                "diverged": int((~np.isfinite(costs)).sum()),
                "wins": wins[label],
            }
        )
    num, seeds = len(next(iter(tuned.costs.values()))), ", ".join(map(str, tuning.seeds))
    return build(
        "tuning",
        "What tuning chose",
        rows,
        [
            STRATEGY,
            words("Chosen", "chosen"),
            figures(f"{info.heading}, {tuning.split}", "value", "{:.4g}", direction=info.direction),
            words("Choice at an edge", "edge"),
            figures("Diverged", "diverged", "{:.0f}"),
            figures("Would have won (%)", lambda row: 100 * row["wins"], "{:.0f}"),
        ],
        caption=(
            f"Every row that trains had the same {num} draws on seeds {seeds}, which are not reported, "
            f"{tuned.flops / 1e9:,.0f} GFLOP in all, and took the one of the best mean. At an edge: the best value may "
            "lie beyond those that were tried. Would have won: how often the row's own best of the draws, drawn anew "
            "with replacement with their seeds, the same for every row, would have been the best of all rows."
        ),
        numbers=pd.DataFrame(rows),
    )


def _best(run: Run, tuned: Tuned) -> Table:
    """Build the expected best of so many trials, by both estimators."""
    info, labels = describe(tuned.tuning.metric), _rows(run, tuned)
    means = {label: tuned.costs[label].mean(axis=1) for label in labels}
    size = len(means[labels[0]])
    shown = [num for num in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128) if num < size] + [size]

    def column(num: int) -> Filled:
        return Column(heading=f"Of {num}", direction=info.direction), lambda label: _both(info, means[label], num)

    numbers = [
        {"label": label, "num": num} | {name: _shown(info, value) for name, value in _estimates(means[label], num)}
        for label in labels
        for num in range(1, size + 1)
    ]
    return build(
        "expected_best",
        f"Expected best {info.title.lower()} of so many tuning trials",
        labels,
        [STRATEGY, *map(column, shown)],
        caption="Means over the tuning seeds. First: drawn with replacement (arXiv:1909.03004), which is biased for "
        "the worse; second: without (arXiv:2004.13705), which is not, and varies more. A dash: it may be a trial that "
        "diverged.",
        numbers=pd.DataFrame(numbers),
    )


def _beside(run: Run, tuned: Tuned) -> Table:
    """Build the reported metrics at the common settings and at each row's own, with the ranks of their means."""
    labels = _rows(run, tuned)
    infos = run.measured(_HEADLINES)
    known = {
        (info.key, where): [float(each.row(label, info.key)["mean"]) for label in labels]
        for info in infos
        for where, each in (("common", tuned.common), ("own", run))
    }
    ranks = {key: _ranks(values, describe(key[0])) for key, values in known.items()}
    rows = [
        {"label": label}
        | {f"{key}_{where}": values[place] for (key, where), values in known.items()}
        | {f"{key}_rank_{where}": values[place] for (key, where), values in ranks.items()}
        for place, label in enumerate(labels)
    ]
    columns = [column for info in infos for column in _columns(info)]
    return build(
        "tuned",
        "At the common settings and at each row's own",
        rows,
        [STRATEGY, *columns],
        caption="Means over the seeds that are reported, and their order among the rows that train; an arrow where it "
        "changes. Whether a difference is more than chance, the other tables say, at each row's own settings.",
        numbers=pd.DataFrame(rows),
    )


def _columns(info: MetricInfo) -> list[Filled]:
    def mean(where: str) -> Filled:
        return (
            Column(heading=f"{info.heading}, {where}", direction=info.direction),
            lambda row: _shown_cell(info, row[f"{info.key}_{where}"]),
        )

    def rank(row: dict[str, float]) -> Cell:
        before, after = (row[f"{info.key}_rank_{where}"] for where in ("common", "own"))
        if np.isnan(before) or np.isnan(after):
            return NOTHING
        text = f"{before:.0f}" if before == after else f"{before:.0f} → {after:.0f}"
        return Cell(text=text, value=after)

    return [mean("common"), mean("own"), (Column(heading=f"Rank by {info.title.lower()}"), rank)]


def _shown_cell(info: MetricInfo, value: float) -> Cell:
    return NOTHING if not np.isfinite(value) else Cell(text=info.show(value), value=value * info.scale)


def _ranks(values: Sequence[float], info: MetricInfo) -> list[float]:
    sign = -1.0 if info.direction == "higher" else 1.0
    return [
        float("nan") if not np.isfinite(one) else 1.0 + sum(sign * each < sign * one for each in values)
        for one in values
    ]


def _rows(run: Run, tuned: Tuned) -> list[str]:
    return [label for label in run.labels if label in tuned.costs]


def _estimates(costs: Values, num: int) -> tuple[tuple[str, float], tuple[str, float]]:
    return (
        ("with_replacement", expected_best(costs, num, replacement=True)),
        ("without", expected_best(costs, num, replacement=False)),
    )


def _both(info: MetricInfo, costs: Values, num: int) -> Cell:
    values = [_shown(info, value) for _, value in _estimates(costs, num)]
    texts = [f"{value:.4g}" if np.isfinite(value) else "—" for value in values]
    return Cell(text=" / ".join(texts), value=values[0] if np.isfinite(values[0]) else None)


def _shown(info: MetricInfo, cost: float) -> float:
    """Return a cost as the metric that it is of, in its printed unit."""
    return float(cost) * info.scale * (-1.0 if info.direction == "higher" else 1.0)
