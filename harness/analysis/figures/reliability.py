"""Reliability diagrams: how often a model is right that is so sure, one panel per source of predictions."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import printable, wrapped
from harness.analysis.figures.source import listing, names, rows
from harness.analysis.figures.style import CYCLE, GREY, MARKERS
from harness.analysis.read import Run

# More lines in a panel hide one another; more panels do not fit a page.
MOST_OTHERS, MOST_SOURCES, COLUMNS = 4, 6, 3

# Means over fewer predictions are drawn hollow.
FEW = 20

_COLUMNS = ("source", "bin", "low", "high", "num", "confidence", "accuracy")


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the baseline, models as they are, and the best and the worst calibrated of the others."""
    table = rows(run, "reliability", _COLUMNS)
    table = table[table["num"] > 0]
    if table.empty:
        return ()
    found = [str(source) for source in table["source"].unique()]
    # Held-out tokens are by far the most predictions.
    sources = sorted(found, key=lambda source: source != "tokens")[:MOST_SOURCES]
    table = table[table["source"].isin(sources)]
    errors = calibration_errors(table)
    drawn = _choose(errors, run)
    return (_plot(table, errors, sources, drawn, left_out=len(names(table, run)) - len(drawn)),)


def calibration_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Return the expected calibration error, a share: a row per label, a column per source, the mean over its seeds."""
    gaps = table.assign(gap=(table["confidence"] - table["accuracy"]).abs() * table["num"])
    sums = gaps.groupby(["label", "trial_id", "source"], sort=False)[["gap", "num"]].sum()
    return (sums["gap"] / sums["num"]).groupby(["label", "source"], sort=False).mean().unstack()


def _choose(errors: pd.DataFrame, run: Run) -> list[str]:
    """Return the labels drawn, in the manifest's order."""
    untrained = {label for label, one in run.methods.items() if not one.trained}
    fixed = [label for label in errors.index if label == run.manifest.baseline or label in untrained]
    others = errors.drop(index=fixed).mean(axis=1).sort_values(kind="stable").index
    best = MOST_OTHERS // 2
    ends = others if len(others) <= MOST_OTHERS else [*others[:best], *others[best - MOST_OTHERS :]]
    # A colour and a marker each.
    chosen = {*fixed[: len(CYCLE) - min(len(others), MOST_OTHERS)], *ends}
    order = dict.fromkeys(entry.label for entry in run.manifest.trials)
    return [label for label in order if label in chosen]


def _plot(table: pd.DataFrame, errors: pd.DataFrame, sources: list[str], drawn: list[str], left_out: int) -> Plot:
    wide = min(COLUMNS, len(sources))
    figure = _figure(table, errors, sources, drawn, wide)
    first = errors.loc[drawn, sources[0]].dropna()
    what = "next tokens" if sources[0] == "tokens" else sources[0]
    others = f" {left_out} strategies between the best and the worst calibrated are left out." if left_out else ""
    return Plot(
        name="reliability",
        title="Reliability diagrams",
        caption="Accuracy against confidence in bins of equal width, predictions of all seeds pooled; on the dashed "
        f"line a model is calibrated, below it is too sure. Hollow marks: fewer than {FEW} predictions. Beneath: share "
        f"of predictions per bin. ECE: expected calibration error, mean over seeds.{others}",
        alt=f"Expected calibration error on {what}: "
        + listing(f"{label} {error:.1%}" for label, error in first.items())
        + ".",
        figure=figure,
    )


def _figure(table: pd.DataFrame, errors: pd.DataFrame, sources: list[str], drawn: list[str], wide: int) -> Figure:
    # In inches: squares with their histograms beneath, and beneath these room for a line per strategy.
    lines = max(
        sum(_told(label, error).count("\n") + 1 for label, error in errors.loc[drawn, source].items())
        for source in sources
    )
    side, hist, key = 1.95, 0.5, 0.115 * lines + 0.05 * len(drawn)
    across, down = side + 0.4, 0.3 + side + 0.09 + hist + 0.42 + key
    width, height = 0.5 + across * wide, down * -(-len(sources) // wide)
    figure = Figure(figsize=(width, height))

    def axes(left: float, top: float, tall: float) -> Axes:
        return figure.add_axes((left / width, (height - top - tall) / height, side / width, tall / height))

    for place, source in enumerate(sources):
        left, start = 0.66 + across * (place % wide), 0.27 + down * (place // wide)
        top, middle = axes(left, start, side), axes(left, start + side + 0.09, hist)
        below = axes(left, start + side + 0.09 + hist + 0.4, key)
        below.set_axis_off()
        top.set_title("next tokens, held-out text" if source == "tokens" else printable(source), loc="left")
        _panel(top, middle, below, table[table["source"] == source], errors[source], drawn)
        if place % wide == 0:
            for part, text in ((top, "Accuracy (%)"), (middle, "Share (%)")):
                part.set_ylabel(text)
                part.yaxis.set_label_coords(-0.19, 0.5)
    return figure


def _panel(top: Axes, middle: Axes, below: Axes, table: pd.DataFrame, errors: pd.Series, drawn: list[str]) -> None:
    top.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    handles = []
    for number, label in enumerate(drawn):
        own = table[table["label"] == label]
        if own.empty:
            continue
        bins, color, marker = pool(own), CYCLE[number], MARKERS[number]
        x, y = 100 * bins["confidence"], 100 * bins["accuracy"]
        many = bins["num"] >= FEW
        top.plot(x, y, color=color, linewidth=1.0, zorder=2)
        for part, face in ((many, color), (~many & (bins["num"] > 0), "white")):
            if part.any():
                top.plot(x[part], y[part], marker, color=color, mfc=face, markersize=3.5, zorder=3, clip_on=False)
        share = 100 * bins["num"] / bins["num"].sum()
        edges = 100 * np.array([*bins["low"], bins["high"].iloc[-1]])
        middle.stairs(share, edges, color=color, linewidth=0.9)
        told = _told(label, errors[label])
        handles.append(Line2D([], [], color=color, marker=marker, markersize=3.5, linewidth=1.0, label=told))
    top.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    top.grid()
    top.tick_params(labelbottom=False)
    middle.set(xlim=(0, 100), xticks=range(0, 101, 25))
    middle.set_ylim(0, None)
    middle.set_xlabel("Confidence (%)")
    below.legend(handles=handles, loc="upper left", fontsize=7, borderaxespad=0.0, labelspacing=0.3)


def _told(label: object, error: float) -> str:
    return wrapped(f"ECE {error:.1%}, {label}", 30)


def pool(table: pd.DataFrame) -> pd.DataFrame:
    """Pool the bins of a label's seeds: a row per bin between the first and the last that has predictions.

    A bin without any has num 0 and missing means.
    """
    weighted = table.assign(sure=table["confidence"] * table["num"], right=table["accuracy"] * table["num"])
    by_bin = weighted.groupby("bin")
    sums = by_bin[["num", "sure", "right"]].sum()
    width = float((table["high"] - table["low"]).mean())
    sums = sums.reindex(range(int(sums.index.min()), int(sums.index.max()) + 1), fill_value=0)
    low = sums.index.to_numpy() * width
    num = sums["num"].replace(0, np.nan)
    means = {"confidence": sums["sure"] / num, "accuracy": sums["right"] / num}
    return pd.DataFrame({"low": low, "high": low + width, "num": sums["num"], **means})
