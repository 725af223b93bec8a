"""What is gained against what is paid: accuracy against perplexity, and quality against FLOPs and seconds."""

from collections.abc import Mapping, Sequence, Set

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.marks import PAIRED, Mark, intervals, marks
from harness.analysis.figures.place import label_points
from harness.analysis.figures.style import GREY, multiples, settle
from harness.analysis.metrics import Direction, describe
from harness.analysis.read import METHOD_SECONDS, Point, Run

_COSTS = {"flops_total": "Training FLOPs", METHOD_SECONDS: "Training, prepass and cache (s)"}


def make(run: Run) -> tuple[Plot, ...]:
    """Draw accuracy against perplexity, and accuracy and held-out loss against what training cost."""
    return (*_quality(run), *_pareto(run))


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


def _heading(key: str) -> str:
    return _COSTS.get(key, describe(key).heading)


def _better(key: str) -> Direction:
    return "lower" if key in _COSTS else describe(key).direction or "lower"


def _quality(run: Run) -> tuple[Plot, ...]:
    pair = ("perplexity", "accuracy")
    both = _shared(run, *pair)
    if len(both) < 2:
        return ()
    figure, (best,) = _draw(run, [[pair]])
    plot = Plot(
        name="accuracy_perplexity",
        title="Accuracy against perplexity",
        caption=f"Mean and interval of each strategy; better is up and to the left. The dashed steps join the trained "
        f"strategies that no other beats on both; a model as it is that lies far from them is in the list only. "
        f"{intervals(run, pair, both)} {PAIRED}",
        alt=f"Accuracy against perplexity of {len(both)} strategies. "
        f"Trained and not beaten on both: {', '.join(best)}.",
        figure=figure,
    )
    return (plot,)


def _pareto(run: Run) -> tuple[Plot, ...]:
    rows = [[(x, y) for x in _COSTS if len(_shared(run, x, y)) > 1] for y in ("accuracy", "heldout_loss")]
    rows = [row for row in rows if row]
    if not rows:
        return ()
    figure, fronts = _draw(run, rows)
    pairs = [pair for row in rows for pair in row]
    shown = [name for pair in pairs for name in _shared(run, *pair)]
    told = "; ".join(
        f"{_heading(y)} against {_heading(x)}: {', '.join(best)}" for (x, y), best in zip(pairs, fronts, strict=True)
    )
    plot = Plot(
        name="pareto",
        title="Quality against cost",
        caption="Mean and interval of each trained strategy. The dashed steps are the Pareto front of the means: no "
        "strategy on it is beaten on quality by one that costs no more. FLOPs include the prepass. Seconds leave out "
        "loading, evaluation, and what all trials share (a cache built once). "
        f"{intervals(run, [key for pair in pairs for key in pair], shown)} {PAIRED}{run.busy_note}",
        alt=f"Quality against cost. On the Pareto front: {told}.",
        figure=figure,
    )
    return (plot,)


def _shared(run: Run, x: str, y: str) -> dict[str, tuple[Point, Point]]:
    """Return both numbers of every label that has them, in the manifest's order."""
    across = run.points.get(x, {})
    # Without training there is nothing to pay for: a cost of zero is no method's.
    return {
        name: (across[name], up)
        for name, up in run.points.get(y, {}).items()
        if name in across and across[name].mean > 0
    }


def _near(both: Mapping[str, tuple[Point, Point]], models: Set[str]) -> dict[str, tuple[Point, Point]]:
    """Return what is drawn: every trained strategy, and models as they are that lie near those."""
    trained = np.array([(x.mean, y.mean) for name, (x, y) in both.items() if name not in models])
    if len(trained) <= 1:
        return dict(both)
    low, high = trained.min(axis=0), trained.max(axis=0)
    reach = high - low
    return {
        name: (x, y)
        for name, (x, y) in both.items()
        if np.all((low - reach <= (x.mean, y.mean)) & ((x.mean, y.mean) <= high + reach))
    }


def _draw(run: Run, rows: Sequence[Sequence[tuple[str, str]]]) -> tuple[Figure, list[list[str]]]:
    """Draw a panel for each pair of numbers; return the figure and each panel's front."""
    known, models = marks(run), set(run.seedless)
    pairs = {pair: _shared(run, *pair) for row in rows for pair in row}
    near = {pair: _near(both, models) for pair, both in pairs.items()}
    shown = {name for both in pairs.values() for name in both}
    order = {name: place + 1 for place, name in enumerate(n for n in run.labels if n in shown)}
    texts = {}
    for name, place in order.items():
        text = f"{place}  {name}" + " (baseline)" * (name == run.manifest.baseline)
        for pair, both in pairs.items():
            if name in models and name in both and name not in near[pair]:
                values = (f"{describe(key).heading} {one.mean:.3g}" for key, one in zip(pair, both[name], strict=True))
                text += f" (outside: {', '.join(values)})"
        texts[name] = wrapped(text, 40)
    columns = max(len(row) for row in rows)
    # The list beside the panels must not be taller than they are; one of its lines needs 0.165 inches.
    height = max(3.1 * len(rows), 0.5 + 0.165 * sum(1 + text.count("\n") for text in texts.values()))
    figure, grid = multiples((3.4 * columns + 2.6, height), columns, columns * len(rows))
    panels: dict[tuple[str, str], Axes] = {}
    for number, row in enumerate(rows):
        line = grid[number * columns : (number + 1) * columns]
        panels |= dict(zip(row, line, strict=False))
        for axes in line[len(row) :]:
            axes.set_visible(False)
    fronts = [_panel(axes, pair, known, near[pair], models) for pair, axes in panels.items()]
    handles = [
        Line2D([], [], linestyle="", marker=known[name].marker, color=known[name].color, markersize=4, label=text)
        for name, text in texts.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=7, handletextpad=0.2)
    settle(figure)
    for pair, axes in panels.items():
        places = [(x.mean, y.mean) for x, y in near[pair].values()]
        numbers, colors = zip(*((str(order[name]), known[name].color) for name in near[pair]), strict=True)
        label_points(axes, places, numbers, colors)
    return figure, fronts


def _panel(
    axes: Axes,
    pair: tuple[str, str],
    known: Mapping[str, Mark],
    drawn: Mapping[str, tuple[Point, Point]],
    models: Set[str],
) -> list[str]:
    for name, (x, y) in drawn.items():
        mark = known[name]
        axes.errorbar(
            x.mean, y.mean, xerr=[[x.below], [x.above]], yerr=[[y.below], [y.above]], fmt=mark.marker,
            color=mark.color, markersize=4, elinewidth=0.7, ecolor=(mark.color, 0.35), zorder=4,
        )  # fmt: skip
    places = {name: (x.mean, y.mean) for name, (x, y) in drawn.items()}
    # The teacher is what students are made from, no way of making one: the front is the trained strategies'.
    trained = {name: place for name, place in places.items() if name not in models}
    best = front(trained or places, (_better(pair[0]), _better(pair[1])))
    # Steps, not slopes: between two strategies there is none.
    line = np.array([places[name] for name in best])
    (steps,) = axes.plot(line[:, 0], line[:, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=0.9, label="front")
    steps.set(drawstyle="steps-post", zorder=2)
    # Every mean is shown with a margin; an interval much wider than their own range runs out of the panel.
    for side, points in zip("xy", zip(*drawn.values(), strict=True), strict=True):
        low, high = min(point.mean for point in points), max(point.mean for point in points)
        reach = (high - low) or abs(high) * 0.1 or 1.0
        lowest, highest = min(point.low for point in points), max(point.high for point in points)
        ends = max(lowest, low - reach) - 0.08 * reach, min(highest, high + reach) + 0.08 * reach
        axes.set(**{f"{side}lim": ends})
    axes.set_xlabel(f"{_heading(pair[0])}, {_better(pair[0])} is better")
    axes.set_ylabel(f"{_heading(pair[1])}, {_better(pair[1])} is better")
    axes.grid()
    return best
