"""A grid's results as data frames of one's own use; docs/results.md says what every column means, in which unit."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from harness.analysis.frame import find, load
from harness.analysis.metrics import Direction, describe
from harness.analysis.read import METHOD_SECONDS, Run
from harness.config.errors import unknown

TABLES = ("metrics", "items", "comparisons", "costs", "curves")

_HEAD = ["trial_id", "label", "seed"]
_ITEMS = [*_HEAD, "task", "item", "metric", "value", "confidence", "correct", "weight"]
_CURVES = [*_HEAD, "step", "loss_nats", "realised_fraction", "learning_rate", "grad_norm"]
# Units of numbers as they are stored, where they are printed in others.
_STORED = {"%": "share", "MiB": "GiB"}
# Costs of which neither more nor less is better by itself.
_NEUTRAL = ("realised_fraction", "classes_per_position")


@dataclass(frozen=True)
class ReportData:
    """What a grid measured, as data frames: tidy, unrounded, in stored units (shares in [0, 1], seconds, GiB).

    Every frame keeps the grid's order. A trial without randomness has no seed; one that failed or never ran keeps its
    rows in `metrics` and `costs`, with its status and without a value.
    """

    run: Run

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per trial and measured number, with its unit and direction ("higher" or "lower" is better)."""
        return _described(self.run.frames.metrics)

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row per trial, evaluated item and measure; empty where the report left the table out."""
        return self.run.frames.tables.get("items", pd.DataFrame(columns=_ITEMS))[_ITEMS]

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One row per label and measured number: its mean, and its paired difference from the baseline.

        Differences are missing for the baseline itself; without one, their columns are.
        """
        numbers = self.run.numbers
        numbers = numbers[~numbers["metric"].map(lambda key: describe(key).cost)].reset_index(drop=True)
        numbers = numbers.drop(columns="busy", errors="ignore")  # of seconds, and there only where any were
        # Missing for the baseline, which numpy's truth values cannot be.
        return _described(numbers.astype({name: "boolean" for name in numbers if name == "distinguishable"}))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row per trial and cost, with its unit and direction."""
        return _described(self.run.costs.drop(columns="num"))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per trial and training step."""
        return self.run.frames.tables.get("curve", pd.DataFrame(columns=_CURVES))[_CURVES]

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the frames by its name.

        Raises:
            UnknownNameError: there is none of this name.
        """
        if name not in TABLES:
            raise unknown("table", name, TABLES)
        frame: pd.DataFrame = getattr(self, name)
        return frame


def read_data(folder: Path) -> ReportData:
    """Read a report (reports/<grid>) or a grid's results (results/<grid>).

    Raises:
        UserError: there is no manifest, or a file is unreadable; names it and the reason.
    """
    origin = find(folder)
    return ReportData(Run(origin.manifest, load(origin.folder, origin.manifest)))


def _described(frame: pd.DataFrame) -> pd.DataFrame:
    """Add unit and direction behind the metric's name."""
    place = list(frame.columns).index("metric") + 1
    described = frame.copy()
    described.insert(place, "unit", frame["metric"].map(_unit))
    described.insert(place + 1, "direction", frame["metric"].map(_direction))
    return described


def _unit(key: str) -> str:
    info = describe(key)
    return "s" if key == METHOD_SECONDS else _STORED.get(info.unit, info.unit)


def _direction(key: str) -> Direction | None:
    info = describe(key)
    if key == METHOD_SECONDS or (info.cost and key not in _NEUTRAL):
        return "lower"
    return info.direction
