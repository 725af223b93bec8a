"""One figure per grid: dot plots side by side, one row per strategy in the table's order."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import MetricInfo, describe
from harness.results import Manifest

PANELS = ("accuracy", "perplexity", "heldout_loss", "teacher_kl")
NOTE = (
    "Mean over seeds (large dot), single seeds (small dots), ± one standard deviation (bar). "
    "What lies far outside the others is written at the edge it is beyond. "
    "Strategies of which trials failed or are missing show finished/planned."
)

# Okabe and Ito's palette, which survives the common colour deficiencies; line styles repeat the distinction in grey.
_INK, _BLUE, _ORANGE = "#333333", "#0072B2", "#D55E00"
_REFERENCES: tuple[tuple[str, tuple[float, tuple[float, ...]]], ...] = (
    ("#009E73", (0, (5, 2))),
    ("#CC79A7", (0, (1, 1.5))),
    ("#E69F00", (0, (4, 1.5, 1, 1.5))),
)
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.6,
    "text.parse_math": False,  # a label may contain a dollar sign
    "svg.hashsalt": "harness.analysis",
}


Line = Literal["solid"] | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Mark:
    """What a label is drawn with.

    Attributes:
        color: hex colour.
        line: style of its vertical reference line, None for a label that has none.
    """

    color: str
    line: Line | None


def draw(numbers: pd.DataFrame, frames: Frames, manifest: Manifest) -> Figure:
    """Draw the grid's figure from `tables.tidy` numbers.

    Reference lines stand at the baseline and at every label without a seed (no KD, the teacher). A value so far from
    the strategies that it would squash their differences is written at the panel's edge.
    """
    measured = list(numbers.loc[numbers["n"] > 0, "metric"].unique())
    keys = [key for key in PANELS if key in measured] or [PANELS[0]]
    names = labels(manifest)
    marks = _marks(frames, manifest)
    with style.context(["default", _STYLE]):
        width = 1.6 + 1.65 * len(keys)
        note = textwrap.wrap(NOTE, int(17 * width))
        figure = Figure(figsize=(width, 1.0 + 0.27 * len(names) + 0.14 * len(note)), layout="constrained")
        panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
        for key, axes in zip(keys, panels, strict=True):
            _panel(axes, describe(key), numbers[numbers["metric"] == key], frames, marks)
        panels[0].set_yticks(range(len(names)), [_tick(name, numbers) for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        _legend(figure, marks, manifest, "\n".join(note))
    return figure


def save(figure: Figure, folder: Path) -> None:
    """Write figure.png (300 dpi) and figure.svg; the same figure gives the same bytes."""
    with style.context(["default", _STYLE]):
        figure.savefig(folder / "figure.png", dpi=300, metadata={"Software": None})
        figure.savefig(folder / "figure.svg", metadata={"Date": None, "Creator": None})


def _marks(frames: Frames, manifest: Manifest) -> dict[str, Mark]:
    seedless = list(frames.trials.loc[frames.trials["seed"].isna(), "label"])
    marks = {}
    for name in labels(manifest):
        if name == manifest.baseline:
            marks[name] = Mark(_ORANGE, "solid")
        elif name in seedless:
            color, line = _REFERENCES[seedless.index(name) % len(_REFERENCES)]
            marks[name] = Mark(color, line)
        else:
            marks[name] = Mark(_BLUE, None)
    return marks


def _panel(axes: Axes, info: MetricInfo, numbers: pd.DataFrame, frames: Frames, marks: dict[str, Mark]) -> None:
    rows = numbers.set_index("label")
    means = rows["mean"] * info.scale
    spreads = (rows["std"] * info.scale).where(np.isfinite, 0.0)
    finished = frames.metrics[(frames.metrics["status"] == "finished") & (frames.metrics["metric"] == info.key)]
    seeded = finished[finished["seed"].notna()]
    low, high = _window(means, spreads, set(seeded["label"]))
    for y, (name, mark) in enumerate(marks.items()):
        mean, spread = means[name], spreads[name]
        if not np.isfinite(mean):
            _note(axes, y, "no result" if rows.loc[name, "n"] == 0 else "not finite", 0.5, mark.color)
            continue
        if not low <= mean <= high:
            value = info.show(mean / info.scale)
            _note(axes, y, f"{value} ▶" if mean > high else f"◀ {value}", float(mean > high), mark.color)
            continue
        if mark.line is not None:
            axes.axvline(mean, color=mark.color, linestyle=mark.line, linewidth=0.9, zorder=1)
        axes.plot([mean - spread, mean + spread], [y, y], color=mark.color, linewidth=1.6, zorder=3)
        axes.plot(mean, y, "o", color=mark.color, markersize=5, zorder=4)
        seeds = seeded.loc[seeded["label"] == name, "value"] * info.scale
        axes.plot(seeds, [y + 0.26] * len(seeds), "o", color=mark.color, alpha=0.45, markersize=2.4, mew=0, zorder=2)
    axes.set_xlim(low, high)
    axes.set_title({"higher": "higher is better", "lower": "lower is better", None: ""}[info.direction], color=_INK)
    axes.set_xlabel(info.heading)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _window(means: pd.Series, spreads: pd.Series, seeded: set[str]) -> tuple[float, float]:
    """Return the range a panel shows: every value but those far from the strategies, with a margin.

    Far is eight times the strategies' typical distance from their median (or their typical spread over seeds, if that
    is more): a reference or a diverged run out there would leave the rest in a few pixels.
    """
    finite = means[np.isfinite(means)]
    if finite.empty:
        return 0.0, 1.0
    strategies = finite[finite.index.isin(seeded)]
    core = finite if strategies.empty else strategies
    center = float(core.median())
    reach = 8 * max(float((core - center).abs().median()), float(spreads[core.index].median())) or np.inf
    shown = finite[(finite - center).abs() <= reach]
    # Single seeds lie up to 1.2 standard deviations from the mean of three, 1.8 from that of five.
    bars = 1.8 * spreads[shown.index]
    low = max(float((shown - bars).min()), center - reach)
    high = min(float((shown + bars).max()), center + reach)
    margin = 0.06 * (high - low) or 0.05 * abs(low) or 1.0
    return low - margin, high + margin


def _note(axes: Axes, y: int, text: str, where: float, color: str) -> None:
    """Write into a row what has no place on its axis; `where` is 0 for the left edge, 1 for the right one."""
    side = {0.0: "left", 0.5: "center", 1.0: "right"}[where]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    place = axes.get_yaxis_transform()
    axes.text(where, y, text, transform=place, ha=side, va="center", fontsize=7, color=color, bbox=box, zorder=5)


def _tick(name: str, numbers: pd.DataFrame) -> str:
    finished, planned = numbers.loc[numbers["label"] == name, ["num_finished", "num_planned"]].iloc[0]
    return textwrap.fill(name if finished == planned else f"{name} ({finished}/{planned})", 26)


def _legend(figure: Figure, marks: dict[str, Mark], manifest: Manifest, note: str) -> None:
    handles = [
        Line2D([], [], color=mark.color, linestyle=mark.line, label=name + " (baseline)" * (name == manifest.baseline))
        for name, mark in marks.items()
        if mark.line is not None
    ]
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, int(figure.get_figwidth() * 14) // (longest + 10))
    # The note is the legend's title because constrained layout keeps room for a legend, and for no other free text.
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, title=note)
    legend.get_title().set(fontsize=7, color=_INK, ha="center")
