"""The table of methods: what each row of the other tables is."""

import pandas as pd

from harness.analysis.document import Table
from harness.analysis.read import Run
from harness.analysis.strategies import Named
from harness.analysis.tables.build import STRATEGY, build, figures, words


def method_table(run: Run) -> Table | None:
    """Build what each strategy is, read from its record."""
    if not run.methods:
        return None
    rows = [
        {
            "label": label,
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
        for label, one in run.methods.items()
    ]
    return build(
        "methods",
        "Methods",
        rows,
        [
            STRATEGY,
            words("Axes", "axes"),
            words("Signal", "signal"),
            words("Policy", "policy"),
            figures("Positions (%)", "budget", "{:g}"),
            words("Classes", "classes"),
            words("Samples", "samples"),
            words("Sample signal", "sample_signal"),
            figures("Samples (%)", "sample_budget", "{:g}"),
            words("Criterion", "criterion"),
            words("Teacher", "teacher"),
            words("Source", "source"),
        ],
        caption=(
            "As the records state them; a dash: the axis keeps everything, or does not apply. Teacher: stored hidden "
            "states (cached), stored draws or classes (sampled, topk), or run beside the student (online). A source "
            "that says reconstructed was not written from the paper's own equations."
        ),
        numbers=pd.DataFrame(rows).map(lambda value: str(value) if isinstance(value, Named) else value),
    )
