"""Which training sequences strategies keep: how alike their choices are, and where on the scores they lie."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.document import Plot
from harness.analysis.figures.glyphs import wrapped
from harness.analysis.figures.heat import heatmap
from harness.analysis.figures.marks import legend_above
from harness.analysis.figures.source import jaccard, listing, names, rows, seeds_of
from harness.analysis.figures.style import BLUE, multiples
from harness.analysis.inference import Values
from harness.analysis.read import Run

MOST_LABELS, MOST_PANELS, COLUMNS, BINS = 16, 6, 3, 40


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the overlap of what strategies keep where there are two of them, and the scores where there are any."""
    table = rows(run, "samples", ("index", "score", "kept"))
    labels = names(table, run)[:MOST_LABELS]
    overlap = (_overlap(table[table["label"].isin(labels)], labels),) if len(labels) > 1 else ()
    scored = table[np.isfinite(table["score"].astype(float))]
    return (*overlap, *((_scores(scored, names(scored, run)[:MOST_PANELS]),) if len(scored) else ()))


def overlaps(table: pd.DataFrame, labels: list[str]) -> Values:
    """Return the mean Jaccard overlap of kept sequences, shape (N, N).

    Two strategies are compared at the same seed where they share any, else at every pair of seeds. On the diagonal a
    strategy is compared with itself at other seeds; nan where it has one seed.
    """
    kept = {
        label: {
            None if pd.isna(part["seed"].iloc[0]) else int(part["seed"].iloc[0]): frozenset(part["index"][part["kept"]])
            for _, part in table[table["label"] == label].groupby("trial_id", sort=False)
        }
        for label in labels
    }
    values = np.full((len(labels), len(labels)), np.nan)
    for (row, first), (column, second) in product(enumerate(labels), repeat=2):
        pairs = [(a, b) for a in kept[first] for b in kept[second] if (a == b) == (first != second)]
        if first != second:
            pairs = pairs or list(product(kept[first], kept[second]))
        found = [jaccard(kept[first][a], kept[second][b]) for a, b in pairs]
        values[row, column] = np.mean(found) if found else np.nan
    return values


def _overlap(table: pd.DataFrame, labels: list[str]) -> Plot:
    values = overlaps(table, labels)
    shares = table.groupby("label", sort=False)["kept"].mean()
    pairs = [(row, column) for row in range(len(labels)) for column in range(row)]
    chance = [_chance(shares[labels[row]], shares[labels[column]]) for row, column in pairs]
    found = np.array([values[pair] for pair in pairs])
    low, high = pairs[int(np.argmin(found))], pairs[int(np.argmax(found))]
    side = 1.2 + 0.4 * len(labels)
    figure = Figure(figsize=(side + 1.9, side + 0.9), layout="constrained")
    written = [wrapped(f"{label} ({shares[label]:.0%})", 28) for label in labels]
    heatmap(figure.subplots(), values, written, size=7, unit="Jaccard overlap")
    span = f"{min(chance):.2f}" if max(chance) - min(chance) < 0.005 else f"{min(chance):.2f} to {max(chance):.2f}"
    return Plot(
        name="samples-overlap",
        title="Overlap of kept training sequences",
        caption="Intersection over union of the training sequences that two strategies keep (in brackets: the share "
        f"each keeps), compared at the same seed and averaged over {seeds_of(table)}. Diagonal: a strategy with itself "
        f"at other seeds, white where it has one seed. Choices at random would overlap by {span}.",
        alt=f"Most alike are {labels[high[0]]} and {labels[high[1]]} ({values[high]:.2f}), least {labels[low[0]]} and "
        f"{labels[low[1]]} ({values[low]:.2f}); chance is {span}.",
        figure=figure,
    )


def _scores(table: pd.DataFrame, labels: list[str]) -> Plot:
    wide = min(COLUMNS, len(labels))
    told, looked = [], []
    size = 0.4 + 2.3 * wide, 0.35 + 1.75 * -(-len(labels) // wide)
    figure, grid = multiples(size, wide, len(labels))
    for place, (axes, label) in enumerate(zip(grid, labels, strict=True)):
        own = table[table["label"] == label]
        own = own[own["trial_id"] == own["trial_id"].iloc[0]]
        looked.append(own)
        score, kept = own["score"].to_numpy(float), own["kept"].to_numpy(bool)
        edges = np.histogram_bin_edges(score, bins=BINS).tolist()
        bars: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.3}
        axes.hist(score, edges, color="#c4c4c4", label="all", **bars)
        axes.hist(score[kept], edges, color=BLUE, label="kept", **bars)
        axes.set_title(wrapped(label, 30), loc="left")
        axes.set_xlabel("Score of the sequence")
        if place % wide == 0:
            axes.set_ylabel("Sequences")
        axes.locator_params(nbins=4)
        if kept.any():
            told.append(f"{label} keeps {kept.mean():.0%}, mean score {score[kept].mean():.3g} of {score.mean():.3g}")
    legend_above(figure, grid[0].get_legend_handles_labels()[0], "outside upper right")
    more = table["label"].nunique() - len(labels)
    return Plot(
        name="samples-scores",
        title="Scores of training sequences",
        caption="Scores of all training sequences (grey) and of those kept (blue), in the unit of the sample "
        f"signal; one trial of each strategy, {seeds_of(pd.concat(looked))}."
        + (f" {more} more strategies are not shown." if more else ""),
        alt=f"{listing(told)}." if told else "No sequence is kept.",
        figure=figure,
    )


def _chance(one: float, other: float) -> float:
    """Return the overlap that independent choices of these shares come to, of many sequences."""
    return one * other / (one + other - one * other) if one + other else 1.0
