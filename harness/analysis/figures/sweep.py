"""What one setting does: metrics against a budget, a temperature, a loss weight or a number of classes."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.marks import PAIRED, Mark, in_turn, intervals, legend_below, legend_height
from harness.analysis.figures.style import multiples
from harness.analysis.figures.varied import Sweep, SweepLine, references, sweeps
from harness.analysis.metrics import describe
from harness.analysis.read import Run

PANELS = ("heldout_loss", "accuracy", "perplexity", "teacher_kl")

_MOST = 14  # lines that a panel can carry
_BANDS = 4  # lines up to which bands can be told apart; more have bars
_TEXT = 0.08  # of a panel's height: a line of text at its edge
_LOG_FROM = 8.0  # ratio of the largest to the least value from which on the axis is logarithmic


def make(run: Run) -> tuple[Plot, ...]:
    """Draw a figure for every setting of which some strategies, alike in all else, have three values or more."""
    plots = []
    for one in sweeps(run):
        keys = [key for key in PANELS if any(_finite(run, key, line) for line in one.lines)]
        if keys:
            plots.append(_plot(one, keys, run, references(run, one)))
    return tuple(plots)


def _finite(run: Run, key: str, line: SweepLine) -> list[tuple[float, str]]:
    return [(value, label) for value, label in line.labels.items() if label in run.points.get(key, {})]


def _plot(one: Sweep, keys: Sequence[str], run: Run, against: Mapping[str, Mark]) -> Plot:
    lines = one.lines[:_MOST]
    left_out = f" The first {_MOST} of {len(one.lines)} lines are shown." if len(one.lines) > _MOST else ""
    swept = [label for line in lines for label in line.labels.values()]
    gone = sorted({label for label in swept if label not in run.points.get(keys[0], {})}, key=swept.index)
    missing = f" No finite result: {', '.join(gone)}." if gone else ""
    spread = "Bands" if len(lines) <= _BANDS else "Bars"
    return Plot(
        name=f"sweep_{one.slug}",
        title=one.heading.split(" (")[0],
        caption=f"Means; each line joins strategies that differ in nothing else. {spread}: "
        f"{intervals(run, keys, [*swept, *against])} Horizontal lines: means of single rows to compare with; "
        f"one far outside is written at the edge it is beyond.{left_out}{missing} {PAIRED}",
        alt=_alt(one.heading, lines, keys, run),
        figure=_draw(one.heading, lines, keys, run, against),
    )


def _alt(heading: str, lines: Sequence[SweepLine], keys: Sequence[str], run: Run) -> str:
    told = []
    info = describe(keys[0])
    for line in lines:
        found = [(value, run.points.get(keys[0], {})[label].mean) for value, label in _finite(run, keys[0], line)]
        if found:
            pick = max if info.direction == "higher" else min
            best = pick(found, key=lambda pair: pair[1])
            told.append(
                f"{line.name}: {found[0][1]:.4g} at {found[0][0]:g}, {found[-1][1]:.4g} at {found[-1][0]:g}, "
                f"best {best[1]:.4g} at {best[0]:g}"
            )
    return f"{info.heading} against {heading}. " + "; ".join(told) + "."


def _draw(
    heading: str, lines: Sequence[SweepLine], keys: Sequence[str], run: Run, against: Mapping[str, Mark]
) -> Figure:
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    handles = [
        Line2D([], [], color=mark.color, linestyle=mark.line or "solid", marker=mark.marker, markersize=4, label=name)
        for mark, name in ((in_turn(place), wrapped(line.name, 44)) for place, line in enumerate(lines))
    ]
    taken = {line.name for line in lines}
    handles += [
        Line2D([], [], color=mark.color, linestyle=mark.line or "solid", linewidth=0.9, label=wrapped(text, 44))
        for name, mark in against.items()
        for text in [f"{name} (the row)" if name in taken else name]
    ]
    width = 3.5 * columns + 0.2
    height = 2.3 * rows + legend_height([str(handle.get_label()) for handle in handles], width)
    figure, panels = multiples((width, height), columns, len(keys))
    for axes, key in zip(panels, keys, strict=True):
        _lines(axes, key, lines, run)
        _across(axes, key, run, against)
        _settings(axes, heading, sorted({value for line in lines for value in line.labels}))
    legend_below(figure, handles)
    return figure


def _lines(axes: Axes, key: str, lines: Sequence[SweepLine], run: Run) -> None:
    info = describe(key)
    points = run.points.get(key, {})
    for place, line in enumerate(lines):
        found = _finite(run, key, line)
        mark, x = in_turn(place), [value for value, _ in found]
        own = [points[label] for _, label in found]
        (drawn,) = axes.plot(x, [point.mean for point in own], marker=mark.marker, markersize=3.5, label=line.name)
        drawn.set(color=mark.color, linestyle=mark.line, linewidth=1.2, zorder=4)
        if len(lines) <= _BANDS and len(found) > 1:
            low, high = [point.low for point in own], [point.high for point in own]
            axes.fill_between(x, low, high, color=mark.color, alpha=0.13, linewidth=0, zorder=2)
        else:
            reach = [[point.below for point in own], [point.above for point in own]]
            axes.errorbar(
                x, [point.mean for point in own], reach, fmt="none", ecolor=(mark.color, 0.45), elinewidth=0.7
            )
    axes.set_ylabel(f"{info.heading}\n{info.better}".rstrip())
    axes.grid(axis="y")


def _across(axes: Axes, key: str, run: Run, against: Mapping[str, Mark]) -> None:
    """Draw the references; one that would squash the lines is written at the edge instead."""
    low, high = axes.get_ylim()
    reach = high - low
    points = run.points.get(key, {})
    found = {name: points[name].mean for name in against if name in points}
    near = {name: mean for name, mean in found.items() if low - 0.4 * reach <= mean <= high + 0.4 * reach}
    bottom = min([low, *(mean - 0.03 * reach for mean in near.values())])
    top = max([high, *(mean + 0.03 * reach for mean in near.values())])
    for name, mean in near.items():
        axes.axhline(mean, color=against[name].color, linestyle=against[name].line, linewidth=0.9, zorder=1)
    info = describe(key)
    above, under = ([n for n in found if found[n] > top], [n for n in found if found[n] < bottom])
    # The texts have their own room beyond the lines, so that they cover none of them.
    line = _TEXT * (top - bottom) / max(1.0 - _TEXT * (len(above) + len(under)), 0.5)
    bottom, top = bottom - line * len(under), top + line * len(above)
    for side, names in (("▲", above), ("▼", under)):
        for place, name in enumerate(names):
            text = f"{wrapped(name, 30).splitlines()[0]} {info.show(found[name] / info.scale)} {side}"
            offset = (-2, (-2 - 9 * place) if side == "▲" else (2 + 9 * place))
            corner, align = ((1, 1), "top") if side == "▲" else ((1, 0), "bottom")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
            axes.annotate(
                text, corner, offset, xycoords="axes fraction", textcoords="offset points", ha="right", va=align,
                fontsize=6.5, color=against[name].color, bbox=box, zorder=6,
            )  # fmt: skip
    axes.set_ylim(bottom, top)


def _settings(axes: Axes, heading: str, values: Sequence[float]) -> None:
    """Mark the values that were run along the axis, as many as have room."""
    axes.set_xlabel(heading)
    log = values[0] > 0 and values[-1] / values[0] >= _LOG_FROM
    if log:
        axes.set_xscale("log")
    at = [math.log(value) if log else value for value in values]
    shown, last = [], -math.inf
    room = (at[-1] - at[0]) / 9
    for place, value in zip(at, values, strict=True):
        if place - last >= room:
            shown.append(value)
            last = place
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
