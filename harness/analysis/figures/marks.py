"""How labels are told apart: the baseline and references in colours of their own, the rest alike or in turn."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from harness.analysis.figures.style import BLUE, CYCLE, GREEN, INK, MARKERS, ORANGE, PINK, YELLOW
from harness.analysis.frame import Frames, labels
from harness.records.record import Manifest

Line = Literal["solid"] | tuple[float, tuple[float, ...]]

LINES: tuple[Line, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
_REFERENCES: tuple[tuple[str, Line], ...] = ((GREEN, LINES[1]), (PINK, LINES[2]), (YELLOW, LINES[3]))


@dataclass(frozen=True)
class Mark:
    """What a label is drawn with.

    Attributes:
        color: hex colour.
        line: style of its reference line, None for a label that has none.
        marker: shape of its points.
    """

    color: str
    line: Line | None
    marker: str = "o"


def marks(frames: Frames, manifest: Manifest) -> dict[str, Mark]:
    """Give the baseline and labels without a seed (no KD, the teacher) their own colours, and blue to the others."""
    seedless = list(frames.trials.loc[frames.trials["seed"].isna(), "label"])
    found = {}
    for name in labels(manifest):
        if name == manifest.baseline:
            found[name] = Mark(ORANGE, "solid", "s")
        elif name in seedless:
            place = seedless.index(name)
            color, line = _REFERENCES[place % len(_REFERENCES)]
            found[name] = Mark(color, line, ("D", "^", "v")[place % 3])
        else:
            found[name] = Mark(BLUE, None)
    return found


def in_turn(number: int) -> Mark:
    """Return the mark of the n-th line: seven colours with their markers, then the same with another line style.

    Each turn also moves the markers on by one: a legend's short piece of a dashed line can look solid.
    """
    turn, place = divmod(number, len(CYCLE))
    return Mark(CYCLE[place], LINES[turn % len(LINES)], MARKERS[(place + turn) % len(MARKERS)])


def legend_below(figure: Figure, handles: Sequence[Line2D], *, note: str = "") -> Legend:
    """Put a legend under the panels, in as many columns as its longest label allows; a long label is wrapped."""
    columns = _columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
    # The note is the legend's title because constrained layout keeps room for a legend, and for no other free text.
    legend = figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, title=note or None
    )
    legend.get_title().set(fontsize=7, color=INK, ha="center")
    return legend


def legend_height(texts: Sequence[str], width: float) -> float:
    """Return how high a legend below panels of this width is, all in inches."""
    rows = -(-len(texts) // _columns(texts, width))
    return 0.1 + 0.17 * rows * max(text.count("\n") + 1 for text in texts)


def _columns(texts: Sequence[str], width: float) -> int:
    longest = max((len(line) for text in texts for line in text.splitlines()), default=0)
    return max(1, min(len(texts), int(width * 14) // (longest + 10)))


def row_height(ticks: Sequence[str]) -> float:
    """Return how high rows of equal height are in which every tick has room for its lines, inches."""
    lines = max((tick.count("\n") + 1 for tick in ticks), default=1)
    return 0.27 if lines <= 2 else 0.14 * lines


def wrapped(text: str, width: int) -> str:
    """Break a label into lines; a word that is longer than a line is broken too."""
    return "\n".join(textwrap.wrap(text, width)) or text


def at_edge(axes: Axes, text: str, *, row: float, side: Literal["left", "center", "right"], color: str) -> None:
    """Write into a row what has no place on its axis."""
    where = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    place = axes.get_yaxis_transform()
    axes.text(where, row, text, transform=place, ha=side, va="center", fontsize=7, color=color, bbox=box, zorder=5)
