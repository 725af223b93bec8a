"""What figures of single tables share: the rows they may use, names of files, and how seeds are written."""

import re
from collections.abc import Iterable, Set

import pandas as pd

from harness.analysis.read import Run


def rows(run: Run, table: str, columns: Iterable[str]) -> pd.DataFrame:
    """Return a table's rows of the trials that finished; none if the table or one of the columns is absent."""
    found = run.frames.tables.get(table)
    if found is None or not {"trial_id", "label", "seed", *columns} <= set(found.columns):
        return pd.DataFrame(columns=["trial_id", "label", "seed", *columns])
    done = run.frames.trials.loc[run.frames.trials["status"] == "finished", ["trial_id", "label"]]
    return found.merge(done, on=["trial_id", "label"], how="inner")


def last_step(table: pd.DataFrame) -> pd.DataFrame:
    """Return each trial's rows of the last step that was looked at."""
    return table[table["step"] == table.groupby(["label", "trial_id"])["step"].transform("max")]


def names(table: pd.DataFrame, run: Run) -> list[str]:
    """Return the labels that have rows, in the manifest's order."""
    found = set(table["label"])
    return [label for label in run.labels if label in found]


def slug(text: str) -> str:
    """Return a name for a file: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def listing(parts: Iterable[str]) -> str:
    """Join words as a sentence does: "a, b and c"."""
    known = list(parts)
    return known[0] if len(known) == 1 else ", ".join(known[:-1]) + " and " + known[-1] if known else ""


def jaccard(one: Set[int], other: Set[int]) -> float:
    """Return intersection over union, 1 of two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def seeds_of(table: pd.DataFrame) -> str:
    """Say which seeds a table's rows come from, e.g. "seeds 1, 2 and 3"."""
    found = sorted(int(seed) for seed in table["seed"].dropna().unique())
    return "no seed" if not found else f"seed{'s' * (len(found) > 1)} {listing(map(str, found))}"


def step_of(table: pd.DataFrame) -> str:
    """Say of which step rows are, or of which steps where trials differ: "step 299"."""
    found = sorted(int(step) for step in table["step"].unique())
    return f"step{'s' * (len(found) > 1)} {listing(map(str, found))}"
