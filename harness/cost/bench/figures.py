"""The benchmarks' pictures."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from harness.cost.accounting import CATEGORIES
from harness.cost.bench.published import figure as published

# Okabe and Ito's palette, told apart by colour-blind readers.
_COLOURS = ("#999999", "#56B4E9", "#0072B2", "#CC79A7", "#009E73", "#D55E00", "#F0E442")
STYLE = {
    "svg.hashsalt": "selective-kd-harness",
    "svg.fonttype": "path",
    "font.size": 9.0,
    "figure.constrained_layout.use": True,
}
MEMORY_TABLE = "memory_rtx3090_B2_L512"


def memory(found: pd.DataFrame, published_rows: dict[str, str]) -> Figure:
    """Draw the student's and the teacher's peak by category, one bar per variant, the paper's as marks.

    Args:
        found: one setting and optimiser of the memory table.
        published_rows: the paper's rows by variant's name.
    """
    with style.context(STYLE):
        figure = Figure(figsize=(11.0, 0.36 * len(found) + 1.9))
        student, teacher = figure.subplots(1, 2, sharey=True)
        for axes, owner in ((student, "student"), (teacher, "teacher")):
            left = pd.Series(0.0, index=found.index)
            for category, colour in zip(CATEGORIES, _COLOURS, strict=True):
                width = found[f"{owner}_{category.replace(' ', '_')}_gib"]
                axes.barh(found["label"], width, left=left, color=colour, label=category)
                left = left + width
            marks = [
                (value, label)
                for name, label in zip(found["variant"], found["label"], strict=True)
                if (value := published(MEMORY_TABLE, published_rows.get(name, ""), f"{owner}_peak_gb")) is not None
            ]
            if marks:
                axes.plot(*zip(*marks, strict=True), "k|", markersize=13, markeredgewidth=2, label="published")
            axes.set_xlabel(f"{owner}'s device at its peak (GiB)")
            _plain(axes)
        student.invert_yaxis()
        handles, labels = student.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


# On a logarithmic axis nothing has no place.
_LEAST = 1e-3


def scaling(found: pd.DataFrame) -> Figure:
    """Draw activations beyond the trunks' floor, and all activations, over the positions of a batch."""
    with style.context(STYLE):
        figure = Figure(figsize=(10.0, 4.0))
        beyond, everything = figure.subplots(1, 2)
        for colour, (label, rows) in zip(_COLOURS[1:], found.groupby("label", sort=False), strict=False):
            rows = rows.sort_values("positions")
            everything.plot(rows["positions"], rows["activations_gib"], "o-", color=colour, label=label, markersize=4)
            if rows["variant"].iloc[0] != "floor":
                floor = rows["beyond_floor_gib"].clip(lower=_LEAST)
                beyond.plot(rows["positions"], floor, "o-", color=colour, label=label, markersize=4)
        beyond.axhline(0.3, color="black", linestyle=":", linewidth=1.0)
        notes = [("target: 0.3 GiB", 0.3)]
        if (found["beyond_floor_gib"] < _LEAST).any():
            notes.append((f"less is drawn at {_LEAST:g} GiB", _LEAST))
        for note, height in notes:
            place = found["positions"].max(), height
            beyond.annotate(note, place, xytext=(0, 4), textcoords="offset points", ha="right")
        beyond.set_ylabel("activations beyond the trunks' floor (GiB)")
        everything.set_ylabel("all activations at the peak (GiB)")
        for axes in (beyond, everything):
            axes.set(xscale="log", yscale="log", xlabel="positions of a batch (B x L)")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.set_xticks([512, 2048, 8192, 32768], minor=False)
            axes.xaxis.set_minor_locator(NullLocator())
            _plain(axes)
            axes.legend(frameon=False, fontsize=8)
    return figure


def bars(labels: Sequence[str], values: Sequence[float], xlabel: str) -> Figure:
    """Draw one bar per row with its value beside it."""
    with style.context(STYLE):
        figure = Figure(figsize=(8.5, 0.32 * len(labels) + 1.0))
        axes = figure.subplots()
        drawn = axes.barh(list(labels), list(values), color=_COLOURS[2])
        axes.bar_label(drawn, fmt="%.3g", padding=3)
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
        axes.margins(x=0.12)
        _plain(axes)
    return figure


def speedups(found: pd.DataFrame) -> Figure:
    """Draw how many times faster than the dense flow each variant is, median with least and most over rounds."""
    pairs = list(dict.fromkeys(found["pair"]))
    with style.context(STYLE):
        figure = Figure(figsize=(4.0 + 3.5 * len(pairs), 0.34 * found["variant"].nunique() + 1.3))
        for axes, pair in zip(figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0], pairs, strict=True):
            rows = found[found["pair"] == pair]
            median = rows["speedup_median"]
            spread = [median - rows["speedup_min"], rows["speedup_max"] - median]
            axes.errorbar(median, rows["label"], xerr=spread, fmt="o", color=_COLOURS[2], capsize=3)
            axes.axvline(1.0, color="black", linestyle=":", linewidth=1.0)
            setting = rows.iloc[0]
            axes.set_title(f"{pair}, B={setting['batch_size']}, L={setting['length']}, threads: {setting['threads']}")
            axes.set_xlabel("times faster than the default flow with a cached teacher")
            _plain(axes)
        figure.axes[0].invert_yaxis()
    return figure


def grid(found: pd.DataFrame) -> Figure:
    """Draw a grid's cost, what the teacher does once and everything else, as shares of its student-only work."""
    rows = found.iloc[::-1]
    labels = [f"{row['pair']}, {row['unit']}, seeds: {row['seeds']}" for row in rows.to_dict("records")]
    with style.context(STYLE):
        figure = Figure(figsize=(8.5, 0.4 * len(rows) + 1.3))
        axes = figure.subplots()
        cached = rows["strategies_with_cached_teacher"] / rows["student_only"]
        once = rows["teacher_once"] / rows["student_only"]
        axes.barh(labels, cached, color=_COLOURS[2], label="strategies, teacher's head included")
        drawn = axes.barh(labels, once, left=cached, color=_COLOURS[5], label="teacher, once")
        axes.bar_label(drawn, labels=[f"{value:.3f}" for value in rows["ratio"]], padding=3)
        for value, line in ((1.0, "-"), (1.15, ":")):
            axes.axvline(value, color="black", linestyle=line, linewidth=1.0)
        axes.set_xlabel("cost of the grid over its student-only work (dotted: target 1.15)")
        axes.margins(x=0.1)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        _plain(axes)
    return figure


def storage(found: pd.DataFrame) -> Figure:
    """Draw terabytes for 100 billion tokens, measured and published."""
    with style.context(STYLE):
        figure = Figure(figsize=(8.5, 0.36 * len(found) + 1.5))
        axes = figure.subplots()
        drawn = axes.barh(found["stored"], found["terabytes_100b_tokens"], color=_COLOURS[2], label="this harness")
        axes.bar_label(drawn, fmt="%.3g", padding=4)
        theirs = found.dropna(subset=["published_terabytes"])
        axes.plot(
            theirs["published_terabytes"], theirs["stored"], "k|", markersize=13, markeredgewidth=2, label="published"
        )
        axes.set(xscale="log", xlabel="terabytes for 100 billion tokens")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.legend(frameon=False)
        _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
