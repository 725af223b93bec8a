"""What a grid is: strategies, on a workload, over seeds."""

from collections import Counter
from typing import Annotated, Any

from pydantic import Field, model_validator

from harness.config.base import Frozen, Positive, Slug, Split
from harness.config.claims import QUALITIES, Claim, Margin
from harness.config.strategy import Strategy
from harness.config.tune import Tune


class Diagnostics(Frozen):
    """What is looked at while training. It changes no number of a trial, so it is no part of a trial's identity.

    Attributes:
        every: optimiser steps from one look to the next; the first and the last step are always looked at.
        sequences: held-out sequences whose positions are shown one by one.
    """

    every: Positive
    sequences: Positive = 4

    def covers(self, other: "Diagnostics") -> bool:
        """Tell whether tables taken like this hold every step and sequence that `other` asks for."""
        return other.every % self.every == 0 and other.sequences <= self.sequences


class Grid(Frozen):
    """A question put to the harness: which strategies, on which workload, over which seeds.

    Attributes:
        name: the grid's folder under results/, and that of its report.
        hypothesis: the file's first comment.
        baseline: label of the row that the others are compared with.
        split: what the reported numbers are measured on; choose budgets on validation only.
        diagnostics: what is looked at while training; nothing if left out.
        margin: by metric, in its own unit, how much worse than the baseline is still not worse; a tenth of what
            lies between the student as it is and the teacher if left out.
        claims: what the report is to judge.
        tune: how `harness run --tune` chooses each row's own settings; None where it does not.
        overrides: by label, what a row changes of the workload, by dotted path; written as the row's `workload`.
    """

    name: Slug
    hypothesis: str
    workload: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    baseline: str | None = None
    split: Split
    diagnostics: Diagnostics | None = None
    margin: dict[str, Margin] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    tune: Tune | None = None
    strategies: tuple[Strategy, ...]
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="after")
    def _labels(self) -> "Grid":
        labels = [strategy.label for strategy in self.strategies]
        if not labels:
            raise ValueError("strategies is empty: name at least one preset or strategy")
        twice = sorted(label for label, num in Counter(labels).items() if num > 1)
        if twice:
            raise ValueError(f"two strategies share the label {twice[0]!r}: give one of them a label of its own")
        if self.baseline is not None and self.baseline not in labels:
            raise ValueError(f"baseline {self.baseline!r} is not the label of a strategy: {', '.join(labels)}")
        unknown = sorted(self.margin.keys() - set(QUALITIES))
        if unknown:
            raise ValueError(f"margin of {unknown[0]!r}: the metrics are {', '.join(QUALITIES)}")
        ids = [claim.id for claim in self.claims]
        for claim in self.claims:
            if ids.count(claim.id) > 1:
                raise ValueError(f"two claims have the id {claim.id!r}")
            for label in claim.rows:
                if label not in labels:
                    raise ValueError(
                        f"claim {claim.id!r}: {label!r} is not the label of a strategy: {', '.join(labels)}"
                    )
        return self
