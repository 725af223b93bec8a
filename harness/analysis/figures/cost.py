"""What each strategy costs on the machine it ran on: seconds by phase, what is spent once, and peak memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.analysis.document import Plot
from harness.analysis.figures import style
from harness.analysis.figures.marks import counted, row_height, span
from harness.analysis.read import Run
from harness.records.record import Record

# In the order they run. Diagnostics only look at the training: they are told apart from what the method costs.
_PHASES = {
    "load": style.GREY, "prepass": style.PINK, "cache": style.YELLOW, "train": style.BLUE, "rollout": style.GREEN,
    "diagnostics": style.ORANGE, "eval": style.SKY,
}  # fmt: skip
# What is spent once, hatched; the same colour in every report.
_SHARED = {
    "hidden": style.GREEN, "scores": style.YELLOW, "sampled": style.ORANGE, "topk": style.BLUE, "prepass": style.PINK,
}  # fmt: skip
_PEAKS = {
    "step": "Peak of the first step (MiB)",
    "cuda": "Peak on the GPU (MiB)",
    "process": "Peak of the process (MiB)",
}


@dataclass(frozen=True, kw_only=True)
class _Panel:
    heading: str  # of the axis, with its unit
    costs: pd.DataFrame  # a row per trial, by label; a column per part, to be stacked
    hatch: str = ""  # drawn over the bars


def make(run: Run) -> tuple[Plot, ...]:
    """Draw seconds and memory of every strategy that left a record of them."""
    time = _panel(run, "Wall time (s)", partial(_seconds, run), order=_PHASES)
    shared = _panel(run, "Spent once (s)", lambda record: record.cost.shared_s, order=_SHARED, hatch="////")
    step, gpu, process = (_peak(run, kind) for kind in _PEAKS)
    # The process holds libraries too: it is shown only where nothing more telling was measured.
    panels = [panel for panel in (time, shared, step, gpu, None if step or gpu else process) if panel is not None]
    if not panels:
        return ()
    trials = span(len(records) for records in run.records.values() if records)
    return (
        Plot(
            name="cost",
            title="Wall time and peak memory",
            caption=f"Means over {trials} finished trial(s) per strategy; whiskers from the least to the greatest "
            "trial. Wall time is stacked by phase; what is spent once for all trials of the workload (hatched) is no "
            "part of it. Seconds and the memory of a GPU depend on the machine and on what else ran there; the peak of "
            "the first step counts the tensors that its loss and gradients bring to life, the same on every machine."
            f"{run.busy_note}",
            alt=_alt(panels),
            figure=_draw(panels, run),
        ),
    )


def _seconds(run: Run, record: Record) -> dict[str, float]:
    return {} if record.trial_id in run.set_aside else record.cost.wall_s


def _peak(run: Run, kind: str) -> _Panel | None:
    def read(record: Record) -> dict[str, float]:
        return {kind: record.cost.peak_gib[kind] * 1024} if kind in record.cost.peak_gib else {}

    return _panel(run, _PEAKS[kind], read)


def _panel(
    run: Run, heading: str, read: Callable[[Record], Mapping[str, float]], *, order: Iterable[str] = (), hatch: str = ""
) -> _Panel | None:
    trials = [(label, dict(read(record))) for label, records in run.records.items() for record in records]
    trials = [(label, cost) for label, cost in trials if cost]
    parts = dict.fromkeys(part for _, cost in trials for part in cost)
    parts = dict.fromkeys([*(part for part in order if part in parts), *parts])
    values = [[cost.get(part, 0.0) for part in parts] for _, cost in trials]
    costs = pd.DataFrame(values, index=[label for label, _ in trials], columns=list(parts))
    return _Panel(heading=heading, costs=costs, hatch=hatch) if trials else None


def _draw(panels: Sequence[_Panel], run: Run) -> Figure:
    ticks = [counted(run, name, len(records)) for name, records in run.records.items()]
    size = 1.8 + 2.1 * len(panels), 1.2 + row_height(ticks) * len(ticks)
    figure, grid = style.multiples(size, len(panels), sharey=True)
    handles: dict[str, Patch] = {}
    for axes, panel in zip(grid, panels, strict=True):
        handles |= _bars(axes, panel, run.labels)
    style.list_rows(grid[0], ticks)
    keys = [*handles.values(), Line2D([], [], color=style.INK, linewidth=0.8, label="least to greatest trial")]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 3 + len(panels)))
    return figure


def _bars(axes: Axes, panel: _Panel, names: list[str]) -> dict[str, Patch]:
    """Draw a panel's bars; return the legend's entries of parts that need one."""
    stacked = len(panel.costs.columns) > 1 or bool(panel.hatch)
    means = panel.costs.groupby(level=0).mean().reindex(names)
    # A cost that is not finite has no bar.
    means = means.where(np.isfinite(means), 0.0)
    start = pd.Series(0.0, index=means.index)
    handles: dict[str, Patch] = {}
    for place, part in enumerate(map(str, means)):
        known = _SHARED if panel.hatch else _PHASES
        color = known.get(part, style.CYCLE[place % len(style.CYCLE)]) if stacked else style.GREEN
        bar: dict[str, Any] = {"hatch": panel.hatch, "edgecolor": "white"}
        axes.barh(range(len(names)), means[part], left=start, height=0.62, color=color, linewidth=0.3, **bar)
        start = start + means[part]
        if stacked:
            text = f"{part} (once)" if panel.hatch else part
            handles[text] = Patch(facecolor=color, label=text, **bar)
    totals = panel.costs.sum(axis=1)
    for y, name in enumerate(names):
        own = totals[totals.index == name]
        own = own[np.isfinite(own)]
        if own.empty:
            axes.text(0.0, y, " none" if panel.hatch else " not measured", va="center", fontsize=6.5, color=style.GREY)
        elif len(own) > 1:
            axes.plot([own.min(), own.max()], [y, y], "|-", color=style.INK, linewidth=0.8, markersize=4, zorder=5)
    axes.set_xlim(left=0.0)
    axes.set_xlabel(panel.heading)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    return handles


def _alt(panels: Sequence[_Panel]) -> str:
    told = []
    for panel in panels:
        means = panel.costs.sum(axis=1).groupby(level=0, sort=False).mean()
        told.append(
            f"{panel.heading}: from {means.min():.3g} ({means.idxmin()}) to {means.max():.3g} ({means.idxmax()})"
        )
    return "Bars per strategy. " + "; ".join(told) + "."
