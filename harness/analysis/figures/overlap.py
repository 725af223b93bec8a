"""How much signals select alike: a square of Jaccard overlaps at the end of training, and how it got there."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.heat import heatmap
from harness.analysis.figures.place import label_ends
from harness.analysis.figures.source import last_step, names, rows, seeds_of, slug, step_of
from harness.analysis.figures.style import CYCLE, GREY, INK, MARKERS, multiples
from harness.analysis.inference import Values
from harness.analysis.read import Run

SELECTED, RANDOM = "selected", "random"

# Squares are large, and those of strategies trained from the same student are much alike.
MOST_SQUARES, MOST_ROWS, MOVERS = 2, 4, 5


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the squares of the first strategies that select positions, and the drift of these and a few more."""
    table = rows(run, "overlap", ("step", "first", "second", "jaccard"))
    if table.empty:
        return ()
    known = names(table, run)
    trials = run.frames.trials
    partial = set(trials.loc[trials["realised_fraction"] < 1.0, "label"])
    known = [label for label in known if label in partial] or known
    squares = tuple(_square(table[table["label"] == label], label) for label in known[:MOST_SQUARES])
    drawn = known[:MOST_ROWS]
    drift = table[table["label"].isin(drawn)]
    return (*squares, _drift(drift, drawn)) if drift["step"].nunique() > 1 else squares


def square(table: pd.DataFrame) -> tuple[Values, list[str]]:
    """Return the mean overlap of every two selections, and their names.

    Args:
        table: rows of `overlap` of one label and of one step of each trial.

    Returns:
        Shape (N, N), symmetric, 1 on the diagonal, nan where a pair was never compared; names in clustered order:
        selections that are much alike stand beside each other.
    """
    mean = table.groupby(["first", "second"])["jaccard"].mean().unstack()
    names = sorted({*mean.index, *mean.columns})
    half = mean.reindex(index=names, columns=names)
    values = half.combine_first(half.T).to_numpy(copy=True)
    np.fill_diagonal(values, 1.0)
    if len(names) > 2:
        distance = squareform(1.0 - np.nan_to_num(values), checks=False)
        order = leaves_list(linkage(distance, method="average", optimal_ordering=True))
        values, names = values[np.ix_(order, order)], [names[place] for place in order]
    return values, names


def _square(table: pd.DataFrame, label: str) -> Plot:
    last = last_step(table)
    values, order = square(last)
    side = 1.3 + 0.235 * len(order)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    shown = [name.replace("_", " ") for name in order]
    heatmap(axes, values, shown, size=5.6, unit="Jaccard overlap")
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, name in zip(ticks, order, strict=True):
            tick.set(fontsize=7, fontweight="bold" if name == SELECTED else "normal")
    axes.set_title(wrapped(label, int(10 * side)), loc="left")
    chance = ""
    if RANDOM in order:
        level = np.nanmean(np.delete(values[order.index(RANDOM)], order.index(RANDOM)))
        chance = f" Chance level: {level:.2f}, the mean overlap with positions drawn at random (random)."
    own = ""
    if SELECTED in order:
        row = values[order.index(SELECTED)]
        others = pd.Series(row, order).drop([SELECTED, RANDOM], errors="ignore").dropna()
        if not others.empty:
            own = f"Closest to what {label} selected is {others.idxmax()} ({others.max():.2f}), "
            own += f"farthest {others.idxmin()} ({others.min():.2f})."
    return Plot(
        name=f"overlap-{slug(label)}",
        title=f"Overlap of selections, {label}",
        caption=f"Intersection over union of the positions that each signal's top k and the trial itself ({SELECTED}) "
        f"keep of the same batch, mean over sequences and over {seeds_of(last)}; {label}, {step_of(last)}. Ordered by "
        f"average-linkage clustering.{chance}",
        alt=f"{own}{chance}".strip() or f"Overlaps of {len(order)} selections.",
        figure=figure,
    )


def _drift(table: pd.DataFrame, labels: list[str]) -> Plot:
    told = []
    figure, grid = multiples((7.2, 0.5 + 1.95 * len(labels)), 2, 2 * len(labels), sharex=True)
    for label, left, right in zip(labels, grid[::2], grid[1::2], strict=True):
        own, between = _over_steps(table[table["label"] == label])
        left.set_title(wrapped(label, 40), loc="left")
        right.set_title("pairs of signals that moved most", loc="left")
        _lines(left, own)
        _lines(right, between[_movers(between)])
        left.set_ylabel("Jaccard with\nselected")
        if not own.empty and len(own) > 1:
            mover = _movers(own)[0]
            told.append(f"{label}: overlap with {mover} {own[mover].iloc[0]:.2f} to {own[mover].iloc[-1]:.2f}")
    for axes in grid[-2:]:
        axes.set_xlabel("Training step")
    return Plot(
        name="overlap-drift",
        title="Drift of the overlap",
        caption="Jaccard overlap over training. Left: of each signal's top k with what the trial selected; the "
        f"{MOVERS} that moved most (largest minus smallest) in colour, the others grey, positions drawn at random "
        f"dashed. Right: the {MOVERS} pairs of signals that moved most. Means over the batch's sequences and over "
        f"{seeds_of(table)}.",
        alt="Largest mover of each strategy, first to last look: " + "; ".join(told) + "."
        if told
        else "No overlap moved.",
        figure=figure,
    )


def _over_steps(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean overlaps, a row per step: a column per signal for those with the trial's own, one per other pair."""
    mine = (table["first"] == SELECTED) | (table["second"] == SELECTED)
    chance = (table["first"] == RANDOM) | (table["second"] == RANDOM)
    other = table["first"].where(table["first"] != SELECTED, table["second"])
    pair = table["first"] + " / " + table["second"]
    return _wide(table[mine], other[mine]), _wide(table[~mine & ~chance], pair[~mine & ~chance])


def _wide(table: pd.DataFrame, name: pd.Series) -> pd.DataFrame:
    spoken = name.str.replace("_", " ").rename("name")
    return table.groupby(["step", spoken])["jaccard"].mean().unstack()


def _movers(lines: pd.DataFrame) -> list[str]:
    reach = (lines.max() - lines.min()).drop(RANDOM, errors="ignore")
    return [str(name) for name in reach.sort_values(ascending=False, kind="stable").index[:MOVERS]]


def _lines(axes: Axes, lines: pd.DataFrame) -> None:
    movers, ends = _movers(lines), []
    for name in lines:
        line = lines[name].dropna()
        if name in movers:
            rank = movers.index(name)
            axes.plot(line, color=CYCLE[rank], marker=MARKERS[rank], markersize=3, linewidth=1.2, zorder=3)
            ends.append((float(line.iloc[-1]), name, CYCLE[rank], MARKERS[rank]))
        elif name == RANDOM:
            axes.plot(line, color=INK, linestyle=(0, (4, 2)), linewidth=1.0, zorder=2)
            ends.append((float(line.iloc[-1]), "random (chance)", INK, ""))
        else:
            axes.plot(line, color=GREY, alpha=0.45, linewidth=0.6, zorder=1)
    axes.set_ylim(0.0, 1.03)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.grid(axis="y")
    label_ends(axes, ends, gap=0.095, size=6.3)
