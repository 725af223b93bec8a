"""Ours beside the published figures: values, the agreement of their orderings, and how the settings differ."""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.inference import Values
from harness.analysis.measures import generator
from harness.analysis.metrics import describe
from harness.analysis.published import (
    METRICS,
    ONE_TASK_METRICS,
    SEEDS,
    SETTING,
    SOURCE,
    TASK_METRICS,
    TASK_SETTING,
    Figures,
)
from harness.analysis.read import Run
from harness.analysis.tables.build import NOTHING, STRATEGY, Filled, build, figures, metric_cell, words
from harness.records.record import Record

DRAWS = 10_000
FEWEST = 4

_NOT_COMPARABLE = "Absolute values are not comparable: models, data and tasks differ; only orderings are compared."


def published_tables(run: Run, figures: Figures) -> Iterable[Table]:
    """Yield what the paper says of this grid's strategies beside what this grid says, if it says anything of any."""
    table = _paired(run, figures)
    if table.empty:
        return
    yield _values_table(run, table)
    agreement = agree(table, seed=run.seed)
    if len(agreement):
        yield _agreement_table(agreement)
    yield _setting_table(run)


def agree(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Compare how two sources order the same trained strategies, metric by metric.

    Args:
        table: label, metric, trained, ours, ours_error, published, published_error; one row per strategy and metric.
        seed: of the permutations and draws.

    Returns:
        metric, num (strategies), tau (Kendall's tau-b: 1 the same order, -1 the reverse), p_value (share of random
        orders that agree or disagree at least as much), low, high (2.5% to 97.5% of tau when every value is redrawn
        from its own error). Models as they are do not count: that a teacher is ahead is no finding. Metrics with fewer
        than four strategies, or with all values the same on either side, have no row.
    """
    rows = []
    for metric, found in table[table["trained"]].groupby("metric", sort=True):
        found = found.dropna(subset=["ours", "published"]).sort_values("label")
        ours, theirs = found["ours"].to_numpy(), found["published"].to_numpy()
        if len(found) < FEWEST or len(set(ours)) < 2 or len(set(theirs)) < 2:
            continue
        random = generator(seed, f"orderings of {metric}")
        tau = float(_tau(ours[None], theirs[None])[0])
        orders = np.argsort(random.random((DRAWS, len(ours))), axis=1)
        by_chance = _tau(ours[orders], np.broadcast_to(theirs, orders.shape))
        # The order as it is counts as one of the random ones, so that no p-value is zero.
        p = (1 + int((np.abs(by_chance) >= abs(tau) - 1e-12).sum())) / (DRAWS + 1)
        redrawn = _tau(
            ours + random.normal(size=orders.shape) * found["ours_error"].fillna(0.0).to_numpy(),
            theirs + random.normal(size=orders.shape) * found["published_error"].fillna(0.0).to_numpy(),
        )
        low, high = (float(value) for value in np.nanquantile(redrawn, [0.025, 0.975]))
        rows.append((metric, len(found), tau, p, low, high))
    return pd.DataFrame(rows, columns=["metric", "num", "tau", "p_value", "low", "high"])


def _tau(first: Values, second: Values) -> Values:
    """Return Kendall's tau-b of each row, shape (R,); nan where a row is constant."""
    upper = np.triu_indices(first.shape[1], k=1)
    left = np.sign(first[:, upper[0]] - first[:, upper[1]])
    right = np.sign(second[:, upper[0]] - second[:, upper[1]])
    with np.errstate(invalid="ignore"):
        scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
        return np.asarray((left * right).sum(axis=1) / scale)


def _of_one_task(run: Run) -> bool:
    """Tell whether students are trained on a task's prompts and answers, and not on plain text."""
    return any((record.workload.get("data") or {}).get("pairs") for found in run.records.values() for record in found)


def _paired(run: Run, figures: Figures) -> pd.DataFrame:
    task, metrics = _of_one_task(run), METRICS
    if task:
        metrics = TASK_METRICS if run.measured(["accuracy/gsm8k"]) else ONE_TASK_METRICS
    measured = {info.key for info in run.measured(list(metrics))}
    rows = []
    for label, method in run.methods.items():
        found = figures.of(method, task=task, split=run.manifest.split)
        published = {str(row["metric"]): row for row in found.to_dict("records")}
        for metric, (theirs, scale) in metrics.items():
            if metric not in measured or theirs not in published:
                continue
            row, told = run.row(label, metric), published[theirs]
            if row["n"] == 0:
                continue
            rows.append(
                {
                    "label": label,
                    "metric": metric,
                    "trained": method.trained,
                    "ours": row["mean"] * scale,
                    "ours_error": row["std"] * scale / math.sqrt(row["n"]),
                    "published_metric": theirs,
                    "published_method": told["method"],
                    "published_table": told["table"],
                    "published": float(told["value"]),
                    "published_error": float(told["std"]) / math.sqrt(SEEDS),
                }
            )
    return pd.DataFrame(rows)


def _values_table(run: Run, table: pd.DataFrame) -> Table:
    keys = [key for key in TASK_METRICS if key in set(table["metric"])]
    cells = {(row["label"], row["metric"]): row for row in table.to_dict("records")}

    def both(key: str) -> Iterator[Filled]:
        info = describe(key)
        theirs = f"{info.heading}, published"
        if set(table["published_metric"][table["metric"] == key]) == {"gsm8k"}:
            theirs = f"{describe('accuracy/gsm8k').heading}, published"
        heading = Column(heading=theirs, direction=info.direction)
        yield heading, lambda label: _published(cells[label, key]) if (label, key) in cells else NOTHING
        heading = Column(heading=f"{info.heading}, ours", direction=info.direction)
        yield heading, lambda label: metric_cell(run, label, info) if (label, key) in cells else NOTHING

    return build(
        "published",
        "Published and ours",
        list(dict.fromkeys(table["label"])),
        [STRATEGY, *(column for key in keys for column in both(key))],
        caption=(
            f"Published: {SOURCE}, mean ± standard deviation over three seeds. Rows are matched by what the strategy "
            "is: signal, policy, budgets, classes, samples, criterion, regime. A strategy in several of the paper's "
            f"tables is taken from the first. {_NOT_COMPARABLE}"
        ),
        numbers=table,
    )


def _published(row: Mapping[Hashable, Any]) -> Cell:
    error = row["published_error"]
    spread = "" if math.isnan(error) else f" ± {error * math.sqrt(SEEDS):.2f}"
    hint = f"{row['published_method']}, table {row['published_table']}"
    return Cell(text=f"{row['published']:.1f}{spread}", value=row["published"], hint=hint)


def _agreement_table(agreement: pd.DataFrame) -> Table:
    return build(
        "published_agreement",
        "Do the orderings agree?",
        agreement.to_dict("records"),
        [
            words("Metric", lambda row: describe(str(row["metric"])).title),
            figures("Strategies", "num", "{:.0f}"),
            figures("Kendall's tau", "tau", "{:+.2f}"),
            (
                Column(heading="95% range under noise"),
                lambda row: Cell(text=f"[{row['low']:+.2f}, {row['high']:+.2f}]", value=row["high"] - row["low"]),
            ),
            figures("p", "p_value", "{:.2g}"),
        ],
        caption=(
            "Kendall's tau-b between the published and our order of the trained strategies: 1 is the same order, 0 "
            "none, -1 the reverse. Range: tau when every value is redrawn from its error over seeds, on both sides, "
            "which pulls it towards 0. p: how often a random order agrees or disagrees at least as much; "
            "not corrected for the number of metrics."
        ),
        numbers=agreement,
    )


def _setting_table(run: Run) -> Table:
    records = [record for found in run.records.values() for record in found]
    published = TASK_SETTING if _of_one_task(run) else SETTING
    ours: dict[str, str] = {}
    for name in published:
        if name == "seeds":
            ours[name] = str(run.frames.trials["seed"].nunique())
        else:
            ours[name] = "; ".join(sorted({_setting(name, record) for record in records if record.workload})) or "—"
    rows = [(name, told, ours[name]) for name, told in published.items()]
    return build(
        "published_setting",
        "How the settings differ",
        rows,
        [words("Setting", itemgetter(0)), words("Published", itemgetter(1)), words("Ours", itemgetter(2))],
        caption=f"The published setting as the authors' repository states it. {_NOT_COMPARABLE}",
        numbers=pd.DataFrame(rows, columns=["setting", "published", "ours"]),
    )


def _setting(name: str, record: Record) -> str:
    workload = record.workload
    data, optimisation = workload.get("data", {}), workload.get("optimisation", {})
    evaluation = workload.get("evaluation", {})
    if name in ("teacher", "student"):
        path = str((workload.get(name) or {}).get("path", "—"))
        return f"{workload.get('name')}'s own {name}" if path.startswith(".") else path
    if name == "data":
        return str(data.get("generator") or data.get("name") or data.get("dataset") or "—")
    if name == "tasks":
        return f"suite {evaluation.get('suite', '—')}, {evaluation.get('num_items') or 'all'} items per task"
    found = {
        "training tokens": data.get("train_tokens"),
        "sequence length": data.get("sequence_length"),
        "sequences per step": optimisation.get("batch_size"),
        "epochs": optimisation.get("epochs"),
        "learning rate": optimisation.get("learning_rate"),
    }[name]
    return "—" if found is None else f"{found:,}" if isinstance(found, int) else f"{found:g}"
