"""Which rows a run's own verdicts leave undecided, so that more seeds may decide them."""

from harness.analysis.read import Run
from harness.analysis.statistics import judge, pair_with

# A row is decided when it is in all of these that were measured.
DECIDING = ("accuracy", "heldout_loss")


def undecided(run: Run) -> tuple[str, ...]:
    """Return the rows that train and cannot be told from the baseline, in the manifest's order.

    A row that diverged, or shares fewer than two seeds with the baseline, is not tested: more seeds would not help it.
    """
    named: set[str] = set()
    for metric in DECIDING:
        compared = pair_with(run.evidence, metric, str(run.manifest.baseline))
        if compared is not None:
            table, _ = judge(metric, compared)
            named |= set(table.loc[table["verdict"] == "not distinguishable", "label"])
    return tuple(label for label in run.labels if label in named and label not in run.seedless)
