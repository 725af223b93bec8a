"""What all figures share: fonts, colours that survive colour deficiencies and greyscale, and how they are saved."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.document import Plot

_PRINT = 200  # dots per inch

INK, FAINT = "#333333", "#e6e6e6"

# Okabe and Ito's palette; the markers repeat the distinction where there is no colour.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.6,
    "text.parse_math": False,  # a label may contain a dollar sign
    "svg.hashsalt": "harness.analysis",
    "pdf.fonttype": 42,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Enter the style in which every figure is drawn and saved; within it, entering it again costs nothing."""
    if rcParams["svg.hashsalt"] == STYLE["svg.hashsalt"]:
        yield
        return
    with style.context(["default", STYLE]):
        yield


def settle(figure: Figure) -> None:
    """Lay a figure out once and for all: constrained layout would move things a little, and slowly, at every drawing.

    Texts are measured as they are printed: on a screen's coarse pixels their letters stand closer.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        return
    dpi = figure.dpi
    figure.set_dpi(_PRINT)
    engine.execute(figure)
    # Not "none", whose placeholder has every figure drawn twice.
    figure.set_layout_engine(None)
    figure.set_dpi(dpi)


def save(plot: Plot, folder: Path) -> None:
    """Write <name>.png, .svg and .pdf; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with drawing():
        settle(plot.figure)
        plot.figure.savefig(folder / f"{plot.name}.png", dpi=_PRINT, metadata={"Software": None})
        plot.figure.savefig(folder / f"{plot.name}.svg", metadata={"Date": None, "Creator": None})
        plot.figure.savefig(
            folder / f"{plot.name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
        )


@contextmanager
def saving(plots: Sequence[Plot], folder: Path) -> Iterator[None]:
    """Save figures, from when the block begins, in a process of their own where one can be spared.

    When the block ends this process takes what is left of them, one by one, until there are none. The bytes are the
    same whoever saves a figure.
    """
    # A copy of a process whose other threads hold locks, as Ray's do, may wait for them for ever.
    alone = threading.active_count() == 1 and "ray" not in sys.modules
    if not (alone and plots and (os.cpu_count() or 1) > 1 and hasattr(os, "fork")):
        yield
        _save_each(plots, folder)
        return
    # What waits to be saved: a byte for each figure, which only one of the two can read.
    waiting, queue = os.pipe()
    os.write(queue, bytes(range(len(plots))))
    os.close(queue)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _save_each(_taken(plots, waiting), folder)
            status = 0
        finally:
            os._exit(status)
    try:
        yield
        _save_each(_taken(plots, waiting), folder)
    finally:
        status = os.waitpid(child, 0)[1]
        os.close(waiting)
    if status != 0:
        # What stopped it, a full disk say, is met again here and told.
        _save_each(plots, folder)


def _taken(plots: Sequence[Plot], waiting: int) -> Iterator[Plot]:
    while place := os.read(waiting, 1):
        yield plots[place[0]]


def _save_each(plots: Iterable[Plot], folder: Path) -> None:
    with drawing():
        for plot in plots:
            save(plot, folder)


def multiples(
    size: tuple[float, float], columns: int, num: int | None = None, *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure of this size in inches and its panels: one row, or `num` in rows, the last perhaps short."""
    figure = Figure(figsize=size, layout="constrained")
    num = num or columns
    grid = figure.subplots(-(-num // columns), columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for axes in grid[num:]:
        axes.set_visible(False)
    return figure, list(grid[:num])


def rule(axes: Axes, *, lines: Literal["x", "y", "both"], bare: tuple[str, ...] = ("top", "right")) -> None:
    """Draw faint lines at an axis' ticks, beneath all else, and take some of the frame away."""
    axes.grid(axis=lines, color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[list(bare)].set_visible(False)


def list_rows(axes: Axes, ticks: Sequence[str]) -> None:
    """Name rows of equal height, the first on top."""
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.5, -0.5)


def clean(figure: Figure) -> None:
    """Take the frames' upper and right lines away."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
