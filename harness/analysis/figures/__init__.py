"""Every figure that a grid's records can fill, drawn with matplotlib from data frames."""

from collections.abc import Callable

from harness.analysis.document import Plot
from harness.analysis.figures import (
    cost,
    curves,
    dots,
    overlap,
    reliability,
    samples,
    selection,
    sweep,
    tokens,
    trade,
)  # fmt: skip
from harness.analysis.figures.style import drawing, save, saving
from harness.analysis.read import Run

__all__ = ["document_plots", "save", "saving"]

# Each looks at what there is and returns the figures it can make of it, often none.
Maker = Callable[[Run], tuple[Plot, ...]]

MAKERS: tuple[Maker, ...] = (
    dots.make, sweep.make, trade.make, cost.make, curves.make, reliability.make, selection.make, overlap.make,
    tokens.make, samples.make,
)  # fmt: skip


def document_plots(run: Run) -> tuple[Plot, ...]:
    """Return every figure that a grid's records can fill, in reading order."""
    with drawing():
        return tuple(plot for make in MAKERS for plot in make(run))
