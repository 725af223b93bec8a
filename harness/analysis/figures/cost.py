"""What each strategy costs on the machine it ran on: seconds by phase, what is spent once, and peak memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.analysis.document import Plot
from harness.analysis.figures.marks import counted, row_height, span
from harness.analysis.figures.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    SKY,
    YELLOW,
    list_rows,
    multiples,
    rule,
)  # fmt: skip
from harness.analysis.read import Run
from harness.records.record import Record

# In the order they run. Diagnostics only look at the training: they are told apart from what the method costs.
_PHASES = {
    "load": GREY,
    "prepass": PINK,
    "cache": YELLOW,
    "train": BLUE,
    "rollout": GREEN,
    "diagnostics": ORANGE,
    "eval": SKY,
}
# What is spent once, hatched; the same colour in every report.
_SHARED = {"hidden": GREEN, "scores": YELLOW, "sampled": ORANGE, "topk": BLUE, "prepass": PINK}
_PEAKS = {
    "step": "Peak of the first step (MiB)",
    "cuda": "Peak on the GPU (MiB)",
    "process": "Peak of the process (MiB)",
}


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One number per part and strategy.

    Attributes:
        heading: of the axis, with its unit.
        parts: mean over seeds by part and label; parts are stacked.
        totals: the sum of the parts of every seed, by label.
        hatch: drawn over the bars.
    """

    heading: str
    parts: dict[str, dict[str, float]]
    totals: dict[str, list[float]]
    hatch: str = ""


def make(run: Run) -> tuple[Plot, ...]:
    """Draw seconds and memory of every strategy that left a record of them."""
    records: dict[str, list[Record]] = {name: [] for name in run.labels}
    for entry, record in zip(run.manifest.trials, run.frames.records, strict=True):
        if record is not None and record.status == "finished":
            records[entry.label].append(record)
    time = _panel("Wall time (s)", records, lambda record: record.cost.wall_s, order=tuple(_PHASES))
    shared = _panel("Spent once (s)", records, lambda record: record.cost.shared_s, order=tuple(_SHARED), hatch="////")
    peaks = [_peak(kind, records) for kind in _PEAKS]
    # The process holds libraries too: it is shown only where nothing more telling was measured.
    memory = [panel for panel in peaks[:2] if panel is not None] or [panel for panel in peaks[2:] if panel is not None]
    panels = [panel for panel in (time, shared) if panel is not None] + memory
    if not panels:
        return ()
    trials = span(len(found) for found in records.values() if found)
    return (
        Plot(
            name="cost",
            title="Wall time and peak memory",
            caption=f"Means over {trials} finished trial(s) per strategy; whiskers from the least to the greatest "
            "trial. Wall time is stacked by phase; what is spent once for all trials of the workload (hatched) is no "
            "part of it. Seconds and the memory of a GPU depend on the machine and on what else ran there; the peak of "
            "the first step counts the tensors that its loss and gradients bring to life, the same on every machine.",
            alt=_alt(panels),
            figure=_draw(panels, records, run),
        ),
    )


def _peak(kind: str, records: Mapping[str, Sequence[Record]]) -> _Panel | None:
    def read(record: Record) -> dict[str, float]:
        return {kind: record.cost.peak_gib[kind] * 1024} if kind in record.cost.peak_gib else {}

    return _panel(_PEAKS[kind], records, read)


def _panel(
    heading: str,
    records: Mapping[str, Sequence[Record]],
    read: Callable[[Record], Mapping[str, float]],
    *,
    order: tuple[str, ...] = (),
    hatch: str = "",
) -> _Panel | None:
    costs = {label: [dict(read(record)) for record in found] for label, found in records.items()}
    costs = {label: [cost for cost in found if cost] for label, found in costs.items()}
    named = {part: None for found in costs.values() for cost in found for part in cost}
    if not named:
        return None
    parts = [part for part in order if part in named] + [part for part in named if part not in order]
    means = {
        part: {
            label: float(np.mean([cost.get(part, 0.0) for cost in found])) for label, found in costs.items() if found
        }
        for part in parts
    }
    totals = {label: [sum(cost.values()) for cost in found] for label, found in costs.items() if found}
    return _Panel(heading=heading, parts=means, totals=totals, hatch=hatch)


def _draw(panels: Sequence[_Panel], records: Mapping[str, Sequence[Record]], run: Run) -> Figure:
    ticks = [counted(run, name, len(found)) for name, found in records.items()]
    size = 1.8 + 2.1 * len(panels), 1.2 + row_height(ticks) * len(ticks)
    figure, grid = multiples(size, len(panels), sharey=True)
    handles: dict[str, Patch] = {}
    for axes, panel in zip(grid, panels, strict=True):
        handles |= _bars(axes, panel, list(records))
    list_rows(grid[0], ticks)
    keys = [*handles.values(), Line2D([], [], color=INK, linewidth=0.8, label="least to greatest trial")]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 3 + len(panels)), frameon=False)
    return figure


def _bars(axes: Axes, panel: _Panel, names: Sequence[str]) -> dict[str, Patch]:
    """Draw a panel's bars; return the legend's entries of parts that need one."""
    stacked = len(panel.parts) > 1 or bool(panel.hatch)
    start = dict.fromkeys(names, 0.0)
    handles = {}
    for place, (part, means) in enumerate(panel.parts.items()):
        known = _SHARED if panel.hatch else _PHASES
        color = known.get(part, CYCLE[place % len(CYCLE)]) if stacked else GREEN
        shown = [name for name in names if name in means]
        # Drawn by height and start: a cost that is not finite has no bar.
        widths = [means[name] if np.isfinite(means[name]) else 0.0 for name in shown]
        axes.barh(
            [names.index(name) for name in shown],
            widths,
            left=[start[name] for name in shown],
            height=0.62,
            color=color,
            hatch=panel.hatch,
            edgecolor="white",
            linewidth=0.3,
        )
        start |= {name: start[name] + width for name, width in zip(shown, widths, strict=True)}
        if stacked:
            text = f"{part} (once)" if panel.hatch else part
            handles[text] = Patch(facecolor=color, hatch=panel.hatch, edgecolor="white", label=text)
    for y, name in enumerate(names):
        found = [value for value in panel.totals.get(name, []) if np.isfinite(value)]
        if not found:
            axes.text(0.0, y, " none" if panel.hatch else " not measured", va="center", fontsize=6.5, color=GREY)
        elif len(found) > 1:
            axes.plot([min(found), max(found)], [y, y], color=INK, linewidth=0.8, marker="|", markersize=4, zorder=5)
    axes.set_xlim(left=0.0)
    axes.set_xlabel(panel.heading)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(axis="y", length=0)
    rule(axes, lines="x", bare=("top", "right", "left"))
    return handles


def _alt(panels: Sequence[_Panel]) -> str:
    told = []
    for panel in panels:
        means = {name: float(np.mean(found)) for name, found in panel.totals.items()}
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        told.append(f"{panel.heading}: from {means[low]:.3g} ({low}) to {means[high]:.3g} ({high})")
    return "Bars per strategy. " + "; ".join(told) + "."
