"""The table of methods: what each row of the other tables is."""

import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.read import Run
from harness.analysis.tables.build import NOTHING, number, strategy_column


def method_table(run: Run) -> Table | None:
    """Build what each strategy is, read from its record."""
    if not run.methods:
        return None
    rows, numbers = [], []
    for label, one in run.methods.items():
        told = {
            "axes": ", ".join(one.axes) or ("none" if one.trained else "not trained"),
            "signal": one.signal,
            "policy": one.policy,
            "budget": None if one.budget is None else 100 * one.budget,
            "classes": one.classes,
            "samples": one.sample_policy,
            "sample_signal": one.sample_signal,
            "sample_budget": None if one.sample_budget is None else 100 * one.sample_budget,
            "criterion": one.criterion,
            "teacher": one.teacher if one.trained else None,
            "source": one.source or None,
            "reconstructed": one.reconstructed,
        }
        numbers.append({"label": label} | {key: _plain(value) for key, value in told.items()})
        rows.append((Cell(text=label), *(_cell(value) for key, value in told.items() if key != "reconstructed")))
    headings = {
        "Axes": False,
        "Signal": False,
        "Policy": False,
        "Positions (%)": True,
        "Classes": False,
        "Samples": False,
        "Sample signal": False,
        "Samples (%)": True,
        "Criterion": False,
        "Teacher": False,
        "Source": False,
    }
    return Table(
        name="methods",
        title="Methods",
        columns=(
            strategy_column(),
            *(Column(heading=heading, numeric=numeric) for heading, numeric in headings.items()),
        ),
        rows=tuple(rows),
        caption=(
            "As the records state them; a dash: the axis keeps everything, or does not apply. Teacher: stored hidden "
            "states (cached), stored draws or classes (sampled, topk), or run beside the student (online). A source "
            "that says reconstructed was not written from the paper's own equations."
        ),
        numbers=pd.DataFrame(numbers),
    )


def _cell(value: object) -> Cell:
    if value is None:
        return NOTHING
    return number(value, "{:g}") if isinstance(value, float) else Cell(text=str(value))


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | float) else str(value)
