"""The published figures that measured ones stand beside (arXiv:2602.01395)."""

from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def _everything() -> pd.DataFrame:
    with files("harness.analysis").joinpath("published/se_kd.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def figure(table: str, method: str, metric: str) -> float | None:
    """Return one published number, None if the paper gives none."""
    rows = _everything()
    found = rows[(rows["table"] == table) & (rows["method"] == method) & (rows["metric"] == metric)]
    return float(found["value"].iloc[0]) if len(found) else None
