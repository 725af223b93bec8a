"""What is gained against what is paid: accuracy against perplexity, and quality against FLOPs and seconds."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.marks import PAIRED, Mark, intervals, marks
from harness.analysis.figures.place import label_points
from harness.analysis.figures.style import GREY, INK, rule, settle
from harness.analysis.metrics import Direction, describe
from harness.analysis.read import METHOD_SECONDS, Point, Run

_COSTS = {"flops_total": "Training FLOPs", METHOD_SECONDS: "Training, prepass and cache (s)"}


@dataclass(frozen=True)
class _Axis:
    """One number along an axis: its key, printed name, and which way is better."""

    key: str
    heading: str
    better: Direction


def make(run: Run) -> tuple[Plot, ...]:
    """Draw accuracy against perplexity, and accuracy and held-out loss against what training cost."""
    drawn = (_quality(run), _pareto(run))
    return tuple(plot for plot in drawn if plot is not None)


def front(points: Mapping[str, tuple[float, float]], better: tuple[Direction, Direction]) -> list[str]:
    """Return the labels that no other label beats on one number without losing on the other, by the first number."""
    signs = [1 if direction == "lower" else -1 for direction in better]
    costs = {label: (signs[0] * x, signs[1] * y) for label, (x, y) in points.items()}
    kept = [
        label
        for label, own in costs.items()
        if not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in costs.values())
    ]
    return sorted(kept, key=lambda label: points[label])


def _axis(key: str) -> _Axis:
    info = describe(key)
    return _Axis(key, _COSTS.get(key, info.heading), "lower" if key in _COSTS else info.direction or "lower")


def _quality(run: Run) -> Plot | None:
    x, y = _axis("perplexity"), _axis("accuracy")
    both = [name for name in run.points.get(x.key, {}) if name in run.points.get(y.key, {})]
    if len(both) < 2:
        return None
    figure, best = _draw(run, [[(x, y)]])
    return Plot(
        name="accuracy_perplexity",
        title="Accuracy against perplexity",
        caption=f"Mean and interval of each strategy; better is up and to the left. The dashed steps join the trained "
        f"strategies that no other beats on both; a model as it is that lies far from them is in the list only. "
        f"{intervals(run, [x.key, y.key], both)} {PAIRED}",
        alt=f"Accuracy against perplexity of {len(both)} strategies. "
        f"Trained and not beaten on both: {', '.join(best[0])}.",
        figure=figure,
    )


def _pareto(run: Run) -> Plot | None:
    qualities = [_axis(key) for key in ("accuracy", "heldout_loss")]
    panels = [[(x, y) for x in map(_axis, _COSTS) if len(_shared(run, x, y)) > 1] for y in qualities]
    panels = [row for row in panels if row]
    if not panels:
        return None
    figure, fronts = _draw(run, panels)
    pairs = [pair for row in panels for pair in row]
    shown = [name for x, y in pairs for name in _shared(run, x, y)]
    told = "; ".join(
        f"{y.heading} against {x.heading}: {', '.join(best)}" for (x, y), best in zip(pairs, fronts, strict=True)
    )
    return Plot(
        name="pareto",
        title="Quality against cost",
        caption="Mean and interval of each trained strategy. The dashed steps are the Pareto front of the means: no "
        "strategy on it is beaten on quality by one that costs no more. FLOPs include the prepass. Seconds leave out "
        "loading, evaluation, and what all trials share (a cache built once). "
        f"{intervals(run, [key for pair in pairs for key in (pair[0].key, pair[1].key)], shown)} {PAIRED}",
        alt=f"Quality against cost. On the Pareto front: {told}.",
        figure=figure,
    )


def _shared(run: Run, x: _Axis, y: _Axis) -> list[str]:
    across = run.points.get(x.key, {})
    # Without training there is nothing to pay for: a cost of zero is no method's.
    return [name for name in run.points.get(y.key, {}) if name in across and across[name].mean > 0]


def _draw(run: Run, rows: Sequence[Sequence[tuple[_Axis, _Axis]]]) -> tuple[Figure, list[list[str]]]:
    """Draw a panel for each pair of axes; return the figure and each panel's front."""
    known = marks(run)
    models = set(run.seedless)
    pairs = [pair for row in rows for pair in row]
    shown = {name for x, y in pairs for name in _shared(run, x, y)}
    order = {name: place + 1 for place, name in enumerate(n for n in run.labels if n in shown)}
    columns = max(len(row) for row in rows)
    texts = {name: _entry(name, order, run, pairs, models) for name in order}
    # The list beside the panels must not be taller than they are; one of its lines needs 0.165 inches.
    height = max(3.1 * len(rows), 0.5 + 0.165 * sum(1 + text.count("\n") for text in texts.values()))
    figure = Figure(figsize=(3.4 * columns + 2.6, height), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    panels = [axes for line, row in zip(grid, rows, strict=True) for axes in line[: len(row)]]
    for line, row in zip(grid, rows, strict=True):
        for axes in line[len(row) :]:
            axes.set_visible(False)
    places = [_places(run, x, y, models) for x, y in pairs]
    fronts = [
        _panel(axes, run, pair, known, place, models) for axes, pair, place in zip(panels, pairs, places, strict=True)
    ]
    handles = [
        Line2D([], [], linestyle="", marker=known[name].marker, color=known[name].color, markersize=4, label=text)
        for name, text in texts.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=7, handletextpad=0.2)
    settle(figure)
    for axes, place in zip(panels, places, strict=True):
        numbered = [str(order[name]) for name in place]
        label_points(axes, list(place.values()), numbered, [known[name].color for name in place])
    return figure, fronts


def _entry(
    name: str,
    order: Mapping[str, int],
    run: Run,
    pairs: Sequence[tuple[_Axis, _Axis]],
    models: Set[str],
) -> str:
    """Return a legend's line: number, label, and the values of a model that lies outside the panel."""
    text = f"{order[name]}  {name}" + " (baseline)" * (name == run.manifest.baseline)
    for x, y in pairs:
        if name in models and name not in _places(run, x, y, models) and name in _shared(run, x, y):
            values = (describe(axis.key).heading + f" {run.points.get(axis.key, {})[name].mean:.3g}" for axis in (x, y))
            text += f" (outside: {', '.join(values)})"
    return wrapped(text, 40)


def _places(run: Run, x: _Axis, y: _Axis, models: Set[str]) -> dict[str, tuple[float, float]]:
    """Return the means to draw: of every trained strategy, and of models as they are that lie near those."""
    across, up = run.points.get(x.key, {}), run.points.get(y.key, {})
    found = {name: (across[name].mean, up[name].mean) for name in _shared(run, x, y)}
    trained = np.array([place for name, place in found.items() if name not in models])
    if len(trained) <= 1:
        return found
    low, high = trained.min(axis=0), trained.max(axis=0)
    near = {
        name: bool(np.all((low - (high - low) <= place) & (place <= high + (high - low))))
        for name, place in found.items()
    }
    return {name: place for name, place in found.items() if near[name]}


def _panel(
    axes: Axes,
    run: Run,
    pair: tuple[_Axis, _Axis],
    known: Mapping[str, Mark],
    places: Mapping[str, tuple[float, float]],
    models: Set[str],
) -> list[str]:
    x, y = pair
    across, up = run.points.get(x.key, {}), run.points.get(y.key, {})
    for name in places:
        mark, left, top = known[name], across[name], up[name]
        axes.errorbar(
            left.mean,
            top.mean,
            xerr=[[left.below], [left.above]],
            yerr=[[top.below], [top.above]],
            fmt=mark.marker,
            color=mark.color,
            markersize=4,
            elinewidth=0.7,
            ecolor=(mark.color, 0.35),
            zorder=4,
        )
    # The teacher is what students are made from, no way of making one: the front is the trained strategies'.
    trained = {name: place for name, place in places.items() if name not in models}
    best = front(trained or places, (x.better, y.better))
    # Steps, not slopes: between two strategies there is none.
    line = np.array([places[name] for name in best])
    (steps,) = axes.plot(line[:, 0], line[:, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=0.9, label="front")
    steps.set(drawstyle="steps-post", zorder=2)
    _limits(axes, [across[name] for name in places], [up[name] for name in places])
    axes.set_xlabel(f"{x.heading}, {x.better} is better", color=INK)
    axes.set_ylabel(f"{y.heading}, {y.better} is better", color=INK)
    rule(axes, lines="both")
    return best


def _limits(axes: Axes, across: Sequence[Point], up: Sequence[Point]) -> None:
    """Show every mean with a margin; an interval much wider than the means' own range runs out of the panel."""
    for points, place in ((across, axes.set_xlim), (up, axes.set_ylim)):
        low, high = min(point.mean for point in points), max(point.mean for point in points)
        reach = (high - low) or abs(high) * 0.1 or 1.0
        lowest, highest = min(point.low for point in points), max(point.high for point in points)
        place(max(lowest, low - reach) - 0.08 * reach, min(highest, high + reach) + 0.08 * reach)
