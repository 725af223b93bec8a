"""The benchmarks' pictures."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.style import BLUE, CYCLE, GREEN, GREY, INK, ORANGE, PINK, SKY, YELLOW, multiples
from harness.cost.accounting import CATEGORIES
from harness.cost.bench.memory import OWNERS, TRACED

# By category.
_COLOURS = (GREY, SKY, BLUE, PINK, GREEN, ORANGE, YELLOW)
_TRACE = [colour for colour, name in zip(_COLOURS, CATEGORIES, strict=True) if name in TRACED]
# On a logarithmic axis nothing has no place.
_LEAST = 1e-3
# Powers of ten as they are: the style of all figures leaves formulas as text.
_PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


def memory(found: pd.DataFrame, published: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the student's and the teacher's peak by category, one bar per variant, the paper's as marks.

    Args:
        found: one setting and optimiser of the memory table.
        published: the paper's GB by variant's label, for each of the two.
    """
    figure, panels = multiples((11.0, 0.36 * len(found) + 1.9), 2, sharey=True)
    for axes, owner in zip(panels, ("student", "teacher"), strict=True):
        parts = {str(name): found[f"{owner}_{name.replace(' ', '_')}_gib"] for name in CATEGORIES}
        _bars(axes, found["label"], parts, f"{owner}'s device at its peak (GiB)", _COLOURS)
        _marks(axes, {label: size for label, size in published[owner].items() if label in set(found["label"])})
    panels[0].invert_yaxis()
    _legend(figure, panels[0])
    return figure


def trace(found: pd.DataFrame) -> Figure:
    """Draw what is alive over a step by category: a column per variant, the student's device above the teacher's."""
    variants = list(found.groupby("label", sort=False))
    figure, panels = multiples((3.1 * len(variants), 5.2), len(variants), 2 * len(variants), sharex=True, sharey="row")
    for axes, (owner, (label, rows)) in zip(panels, product(OWNERS, variants), strict=True):
        parts = [rows[f"{owner}_{name.replace(' ', '_')}_gib"] for name in TRACED]
        axes.stackplot(100.0 * (rows["part"] + 1) / len(rows), *parts, labels=TRACED, colors=_TRACE, linewidth=0)
        most = rows[f"{owner}_gib"].max()
        axes.axhline(most, color=INK, linestyle=":", linewidth=0.8)
        axes.annotate(f"{most:.2f}", (0, most), xytext=(3, 2), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", fontsize=7)  # fmt: skip
        axes.margins(x=0, y=0.1)
        axes.grid(axis="y")
        if owner == "student":
            axes.set_title(wrapped(str(label), 34))
        else:
            axes.set_xlabel("tensors made and dropped (% of the step)")
    for axes, owner in zip(panels[:: len(variants)], OWNERS, strict=True):
        axes.set_ylabel(f"{owner}'s device, beyond weights\nand optimiser state (GiB)")
    _legend(figure, panels[0])
    return figure


def scaling(found: pd.DataFrame) -> Figure:
    """Draw activations beyond the trunks' floor, and all activations, over the positions of a batch."""
    figure, (beyond, everything) = multiples((10.0, 4.0), 2)
    for colour, (label, rows) in zip(CYCLE, found.groupby("label", sort=False), strict=False):
        rows = rows.sort_values("positions")
        everything.plot(rows["positions"], rows["activations_gib"], "o-", color=colour, label=label, markersize=4)
        if rows["variant"].iloc[0] != "floor":
            floor = rows["beyond_floor_gib"].clip(lower=_LEAST)
            beyond.plot(rows["positions"], floor, "o-", color=colour, label=label, markersize=4)
    beyond.axhline(0.3, color=INK, linestyle=":", linewidth=1.0)
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
        axes.yaxis.set_major_formatter(_PLAIN)
        axes.set_xticks([512, 2048, 8192, 32768], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x")
        axes.legend(frameon=False)
    return figure


def bars(labels: Sequence[str], values: Sequence[float], xlabel: str) -> Figure:
    """Draw one bar per row with its value beside it."""
    figure, (axes,) = multiples((8.5, 0.32 * len(labels) + 1.0), 1)
    _bars(axes, labels, {"": values}, xlabel, [BLUE], texts=[f"{value:.3g}" for value in values])
    axes.invert_yaxis()
    return figure


def speedups(found: pd.DataFrame) -> Figure:
    """Draw how many times faster than the dense flow each variant is, median with least and most over rounds."""
    pairs = list(dict.fromkeys(found["pair"]))
    size = (4.0 + 3.5 * len(pairs), 0.34 * found["variant"].nunique() + 1.3)
    figure, panels = multiples(size, len(pairs), sharey=True)
    for axes, pair in zip(panels, pairs, strict=True):
        rows = found[found["pair"] == pair]
        median, setting = rows["speedup_median"], rows.iloc[0]
        spread = [median - rows["speedup_min"], rows["speedup_max"] - median]
        axes.errorbar(median, rows["label"], xerr=spread, fmt="o", color=BLUE, capsize=3)
        axes.axvline(1.0, color=INK, linestyle=":", linewidth=1.0)
        axes.set_title(f"{pair}, B={setting['batch_size']}, L={setting['length']}, threads: {setting['threads']}")
        axes.set_xlabel("times faster than the default flow with a cached teacher")
        axes.grid(axis="x")
    panels[0].invert_yaxis()
    return figure


def grid(found: pd.DataFrame) -> Figure:
    """Draw a grid's cost, what the teacher does once and everything else, as shares of its student-only work."""
    labels = [f"{row['pair']}, {row['unit']}, seeds: {row['seeds']}" for row in found.to_dict("records")]
    parts = {
        "strategies, teacher's head included": found["strategies_with_cached_teacher"] / found["student_only"],
        "teacher, once": found["teacher_once"] / found["student_only"],
    }
    figure, (axes,) = multiples((8.5, 0.4 * len(found) + 1.3), 1)
    xlabel = "cost of the grid over its student-only work (dotted: target 1.15)"
    _bars(axes, labels, parts, xlabel, [BLUE, ORANGE], texts=[f"{value:.3f}" for value in found["ratio"]])
    for value, line in ((1.0, "-"), (1.15, ":")):
        axes.axvline(value, color=INK, linestyle=line, linewidth=1.0)
    axes.invert_yaxis()
    _legend(figure, axes)
    return figure


def storage(found: pd.DataFrame) -> Figure:
    """Draw terabytes for 100 billion tokens, measured and published."""
    figure, (axes,) = multiples((8.5, 0.36 * len(found) + 1.5), 1)
    values = found["terabytes_100b_tokens"]
    _bars(axes, found["stored"], {"this harness": values}, "terabytes for 100 billion tokens", [BLUE])
    for name, value, paper in zip(found["stored"], values, found["published_terabytes"], strict=True):
        text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
        beside = max(value, 0.0 if pd.isna(paper) else paper)
        axes.annotate(text, (beside, name), xytext=(5, 0), textcoords="offset points", va="center")
    axes.margins(x=0.12)
    theirs = found.dropna(subset=["published_terabytes"])
    _marks(axes, dict(zip(theirs["stored"], theirs["published_terabytes"], strict=True)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.invert_yaxis()
    axes.legend(frameon=False)
    return figure


def _bars(
    axes: Axes,
    labels: Iterable[str],
    parts: Mapping[str, Iterable[float]],
    xlabel: str,
    colours: Sequence[str],
    *,
    texts: Sequence[str] = (),
) -> None:
    """Draw a bar of stacked parts per row, with a text beside each if there are texts."""
    names = list(labels)
    left = pd.Series(0.0, index=range(len(names)))
    for colour, (part, values) in zip(colours, parts.items(), strict=True):
        widths = pd.Series(list(values))
        drawn = axes.barh(names, widths, left=left, color=colour, label=part)
        left = left + widths
    if texts:
        axes.bar_label(drawn, labels=texts, padding=4)
        axes.margins(x=0.12)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")


def _marks(axes: Axes, published: Mapping[str, float]) -> None:
    if published:
        axes.plot(list(published.values()), list(published), "|", color="black", ms=13, mew=2, label="published")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
