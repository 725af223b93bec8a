"""The grid at a glance: dot plots side by side, one row per strategy in the table's order."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.analysis.document import Plot
from harness.analysis.figures.marks import PAIRED, Mark, at_edge, counted, intervals, legend_below, marks, row_height
from harness.analysis.figures.style import ORANGE, list_rows, multiples
from harness.analysis.frame import Frames
from harness.analysis.metrics import MetricInfo, describe
from harness.analysis.read import Run

PANELS = ("accuracy", "perplexity", "heldout_loss", "teacher_kl")
NOTE = (
    "Mean over seeds (large dot) with its 95% interval (bar), single seeds (small dots). "
    "What lies far outside the others is written at the edge it is beyond. "
    "Strategies of which trials failed or are missing show finished/planned."
)


def make(run: Run) -> tuple[Plot, ...]:
    """Draw every strategy's quality with its interval and single seeds; nothing of a grid without trials."""
    if run.frames.trials.empty:
        return ()
    keys = [info.key for info in run.measured(PANELS)] or [PANELS[0]]
    plot = Plot(
        name="overview",
        title="All strategies",
        caption=f"{NOTE} {intervals(run, keys, run.labels)} {PAIRED}",
        alt=_alt(run, keys),
        figure=_draw(run, keys),
    )
    return (plot,)


def _draw(run: Run, keys: list[str]) -> Figure:
    """Draw a panel per metric.

    Reference lines stand at the baseline and at every label without a seed (no KD, the teacher). A value so far from
    the strategies that it would squash their differences is written at the panel's edge.
    """
    known = marks(run)
    width = 1.6 + 1.65 * len(keys)
    note = textwrap.wrap(NOTE, int(17 * width))
    finished = run.summary.groupby("label")["num_finished"].first()
    ticks = [counted(run, name, finished[name]) for name in run.labels]
    height = 1.0 + row_height(ticks) * len(run.labels) + 0.14 * len(note)
    figure, panels = multiples((width, height), len(keys), sharey=True)
    for key, axes in zip(keys, panels, strict=True):
        _panel(axes, describe(key), run.summary[run.summary["metric"] == key], run.frames, known)
    list_rows(panels[0], ticks)
    handles = [
        Line2D([], [], color=mark.color, linestyle=mark.line, label=name + " (baseline)" * (mark.color == ORANGE))
        for name, mark in known.items()
        if mark.line is not None
    ]
    legend_below(figure, handles, note="\n".join(note))
    return figure


def _alt(run: Run, keys: list[str]) -> str:
    """Name the best and the worst strategy of each panel."""
    numbers = run.summary
    told = []
    for key in keys:
        info = describe(key)
        rows = numbers[(numbers["metric"] == key) & np.isfinite(numbers["mean"].astype(float))].sort_values("mean")
        if rows.empty:
            continue
        low, high = (f"{row['label']} {info.show(row['mean'])}" for _, row in rows.iloc[[0, -1]].iterrows())
        told.append(f"{info.heading}: from {low} to {high}")
    return f"Dot plot of {len(run.labels)} strategies. " + ("; ".join(told) or "Nothing finished") + "."


def _panel(axes: Axes, info: MetricInfo, numbers: pd.DataFrame, frames: Frames, known: dict[str, Mark]) -> None:
    rows = numbers.set_index("label")
    means = rows["mean"] * info.scale
    lows = (rows["mean_low"] * info.scale).where(np.isfinite, means)
    highs = (rows["mean_high"] * info.scale).where(np.isfinite, means)
    finished = frames.metrics[(frames.metrics["status"] == "finished") & (frames.metrics["metric"] == info.key)]
    seeded = finished[finished["seed"].notna()]
    low, high = _window(means, highs - lows, set(seeded["label"]))
    for y, (name, mark) in enumerate(known.items()):
        mean = means.get(name, np.nan)
        if not np.isfinite(mean):
            text = "no result" if name not in rows.index or rows.loc[name, "n"] == 0 else "not finite"
            at_edge(axes, text, row=y, side="center", color=mark.color)
            continue
        if not low <= mean <= high:
            value = info.show(mean / info.scale)
            if mean > high:
                at_edge(axes, f"{value} ▶", row=y, side="right", color=mark.color)
            else:
                at_edge(axes, f"◀ {value}", row=y, side="left", color=mark.color)
            continue
        if mark.line is not None:
            axes.axvline(mean, color=mark.color, linestyle=mark.line, linewidth=0.9, zorder=1)
        axes.plot([lows[name], highs[name]], [y, y], color=mark.color, linewidth=1.6, zorder=3)
        axes.plot(mean, y, "o", color=mark.color, markersize=5, zorder=4)
        seeds = seeded.loc[seeded["label"] == name, "value"] * info.scale
        axes.plot(seeds, [y + 0.26] * len(seeds), "o", color=mark.color, alpha=0.45, markersize=2.4, mew=0, zorder=2)
    axes.set_xlim(low, high)
    axes.set_title(info.better)
    axes.set_xlabel(info.heading)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _window(means: pd.Series, widths: pd.Series, seeded: set[str]) -> tuple[float, float]:
    """Return the range a panel shows: every value but those far from the strategies, with a margin.

    Far is eight times the strategies' typical distance from their median (or two typical intervals, if that is more): a
    reference or a diverged run out there would leave the rest in a few pixels.
    """
    finite = means[np.isfinite(means)]
    if finite.empty:
        return 0.0, 1.0
    strategies = finite[finite.index.isin(seeded)]
    core = finite if strategies.empty else strategies
    center = float(core.median())
    typical = float((core - center).abs().median())
    reach = max(8 * typical, 2 * float(widths[core.index].median())) or np.inf
    shown = finite[(finite - center).abs() <= reach]
    bars = widths[shown.index] / 2
    low = max(float((shown - bars).min()), center - reach)
    high = min(float((shown + bars).max()), center + reach)
    margin = 0.06 * (high - low) or 0.05 * abs(low) or 1.0
    return low - margin, high + margin
