"""Whether a workload can tell strategies apart: what has to hold before their differences mean anything."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.analysis.document import Table
from harness.analysis.hypotheses import anchors
from harness.analysis.metrics import describe
from harness.analysis.read import Run
from harness.analysis.tables.build import build, figures, words

_HEADLINES = ("accuracy", "heldout_loss")
# How far a realised share of positions may lie from the budget: sequences are short, and counts are rounded up.
_BUDGET_SLACK = 0.02


def validity_table(run: Run) -> Table | None:
    """Build the checks, one a row: what was found, as a number where it is one; None where nothing finished."""
    if not any(run.records.values()):
        return None
    rows = [*_recovered(run), _budgets(run), _above(run), *_overlaps(run)]
    return build(
        "validity",
        "Can this workload tell?",
        rows,
        [words("Check", "check"), figures("Value", "value", "{:.2f}"), words("Found", "found")],
        caption=(
            "Gap recovered: (baseline - No KD) / (teacher - No KD), by means over seeds; near 0, distillation teaches "
            "nothing that strategies could differ in, and beyond 1 the teacher is no bound. Budget: the largest "
            f"distance of a realised share of positions from the one asked for; named from {_BUDGET_SLACK:g} on. "
            "Teacher above student: the share of tasks on which the teacher is the more accurate."
        ),
        numbers=pd.DataFrame(rows),
    )


def _row(check: str, found: str, value: float | None = None) -> dict[str, Any]:
    return {"check": check, "value": value, "found": found}


def _recovered(run: Run) -> Iterator[dict[str, Any]]:
    baseline = run.manifest.baseline
    for info in run.measured(_HEADLINES):
        check, ends = f"Gap recovered, {info.title.lower()}", anchors(run, info.key)
        if baseline is None or ends is None or run.row(baseline, info.key)["n"] == 0:
            yield _row(check, "not known: it takes finished rows of the baseline, of No KD and of the teacher")
            continue
        student, teacher = ends
        own = float(run.row(baseline, info.key)["mean"])
        said = f"No KD {info.show(student)}, {baseline} {info.show(own)}, teacher {info.show(teacher)}"
        yield _row(check, said, (own - student) / (teacher - student))


def _budgets(run: Run) -> dict[str, Any]:
    """Compare the shares of positions that were supervised with those asked for."""
    distances, named = [], []
    for label, one in run.methods.items():
        realised = run.mean(label, lambda record: getattr(record.selection, "realised_fraction", None))
        if one.budget is None or realised is None:
            continue
        distances.append(abs(realised - one.budget))
        if distances[-1] >= _BUDGET_SLACK:
            named.append(f"{label} {realised:.1%} of {one.budget:.1%} asked")
    if not distances:
        return _row("Budget realised", "no row has a budget and a record of what it supervised")
    return _row("Budget realised", "; ".join(named) or f"as asked in {len(distances)} rows", max(distances))


def _above(run: Run) -> dict[str, Any]:
    """Say on which tasks the teacher does not answer better than the student as it is."""
    tasks = sorted({str(key) for key in run.summary["metric"] if str(key).startswith("accuracy/")}) or ["accuracy"]
    ends = {task: both for task in tasks if task in run.points and (both := anchors(run, task)) is not None}
    if not ends:
        return _row("Teacher above student", "not known: it takes finished rows of No KD and of the teacher")
    below = [describe(task).title for task, (student, teacher) in ends.items() if teacher <= student]
    said = f"not in {', '.join(below)}" if below else f"in all of {len(ends)}"
    return _row("Teacher above student", said, 1 - len(below) / len(ends))


def _overlaps(run: Run) -> Iterator[dict[str, Any]]:
    table = run.frames.tables.get("overlap")
    said = "not in the record" if table is None else "in figure overlap-drift, at the steps that were looked at"
    yield _row("Overlap of selections", said)
    yield _row("13-gram overlap of training text with held-out items", "not in the record")
