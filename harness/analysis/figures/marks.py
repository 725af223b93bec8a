"""How labels are told apart: the baseline and references in colours of their own, the rest alike or in turn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.style import BLUE, CYCLE, GREEN, INK, MARKERS, ORANGE, PINK, YELLOW
from harness.analysis.read import Run

_Above = Literal["outside upper left", "outside upper right"]
LineStyle = Literal["solid"] | tuple[float, tuple[float, ...]]

LINES: tuple[LineStyle, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
_REFERENCES: tuple[tuple[str, LineStyle], ...] = ((GREEN, LINES[1]), (PINK, LINES[2]), (YELLOW, LINES[3]))


@dataclass(frozen=True)
class Mark:
    """What a label is drawn with."""

    color: str  # hex colour
    line: LineStyle | None  # style of its reference line, None for a label that has none
    marker: str = "o"  # shape of its points


def marks(run: Run) -> dict[str, Mark]:
    """Give the baseline and labels without a seed (no KD, the teacher) their own colours, and blue to the others."""
    marked = {}
    for name in run.labels:
        if name == run.manifest.baseline:
            marked[name] = Mark(ORANGE, "solid", "s")
        elif name in run.seedless:
            place = run.seedless.index(name)
            color, line = _REFERENCES[place % len(_REFERENCES)]
            marked[name] = Mark(color, line, ("D", "^", "v")[place % 3])
        else:
            marked[name] = Mark(BLUE, None)
    return marked


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
    legend = figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, title=note or None)
    legend.get_title().set(fontsize=7, color=INK, ha="center")
    return legend


def legend_above(figure: Figure, handles: Sequence[Artist], place: _Above) -> None:
    """Put a legend over the panels, at a corner that no title stands in."""
    figure.legend(handles=handles, loc=place, ncols=2)


def legend_height(texts: Sequence[str], width: float) -> float:
    """Return how high a legend below panels of this width is, all in inches."""
    rows = -(-len(texts) // _columns(texts, width))
    return 0.1 + 0.17 * rows * max(text.count("\n") + 1 for text in texts)


def _columns(texts: Sequence[str], width: float) -> int:
    longest = max((len(line) for text in texts for line in text.splitlines()), default=0)
    return max(1, min(len(texts), int(width * 14) // (longest + 10)))


def counted(run: Run, name: str, num: int, width: int = 26) -> str:
    """Return a label in lines, with "(finished/planned)" where not all of its trials are there."""
    planned = sum(entry.label == name for entry in run.manifest.trials)
    return wrapped(name if num == planned else f"{name} ({num}/{planned})", width)


def row_height(ticks: Sequence[str]) -> float:
    """Return how high rows of equal height are in which every tick has room for its lines, inches."""
    lines = max((tick.count("\n") + 1 for tick in ticks), default=1)
    return 0.27 if lines <= 2 else 0.14 * lines


def at_edge(axes: Axes, text: str, *, row: float, side: Literal["left", "center", "right"], color: str) -> None:
    """Write into a row what has no place on its axis."""
    where = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    place = axes.get_yaxis_transform()
    axes.text(where, row, text, transform=place, ha=side, va="center", fontsize=7, color=color, bbox=box, zorder=5)


# Bars of two strategies overlap more than their difference is uncertain: trials share seeds and items.
PAIRED = (
    "Whether two strategies differ is tested on paired differences, which these intervals of single means do not show."
)


def intervals(run: Run, metrics: Iterable[str], shown: Iterable[str]) -> str:
    """Say what the intervals of some labels' means cover, and of how many seeds the means are."""
    rows = run.summary[run.summary["metric"].isin(list(metrics)) & run.summary["label"].isin(list(shown))]
    rows = rows[rows["n"] > 0]
    covers = [text for text in rows["mean_covers"].dropna().unique() if text]
    seeds = span(rows["n"], "{} trials", "{} trial(s)")
    if not covers:
        return f"No intervals: each mean is of {seeds} per strategy."
    return f"95% intervals over {' or '.join(sorted(covers))}; each mean is of {seeds}, one per seed."


def span(counts: Iterable[int], several: str = "{}", one: str = "{}") -> str:
    """Write counts as a range: "2 to 3 trials", or "3 trial(s)" where all are alike."""
    known = sorted({int(count) for count in counts}) or [0]
    return several.format(f"{known[0]} to {known[-1]}") if len(known) > 1 else one.format(known[0])
