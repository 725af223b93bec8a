"""Tables of evidence: every difference from the baseline with its intervals, and what is noise."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.analysis.document import Cell, Column, Table
from harness.analysis.metrics import QUALITY, describe
from harness.analysis.noise import POWER
from harness.analysis.read import Run
from harness.analysis.tables.build import NOTHING, interval_text, number, strategy_column

_NUMBERS = [
    *(
        "label",
        "metric",
        "baseline",
        "num_pairs",
        "mean",
        "difference",
        "difference_std",
        "ci_low",
        "ci_high",
        "covers",
    ),
    *("p_value", "p_corrected", "family", "corrected_low", "corrected_high", "verdict", "effect_size", "improvement"),
]


def comparison_table(run: Run) -> Table | None:
    """Build every difference from the baseline in the main metrics, with all that is known of it."""
    if run.manifest.baseline is None or "verdict" not in run.numbers:
        return None
    keys = [info.key for info in run.measured([info.key for info in QUALITY])]
    found = run.numbers[run.numbers["metric"].isin(keys) & run.numbers["verdict"].notna()]
    if found.empty:
        return None
    order = {key: place for place, key in enumerate(keys)}
    found = found.sort_values("metric", key=lambda column: column.map(order), kind="stable")
    rows = []
    for row in found.to_dict("records"):
        info = describe(str(row["metric"]))
        tested = not math.isnan(row["ci_low"])
        wide = (row["ci_high"] - row["ci_low"]) * info.scale if tested else None
        rows.append(
            (
                Cell(text=info.heading),
                Cell(text=str(row["label"])),
                number(row["num_pairs"], "{:.0f}"),
                Cell(
                    text=info.show_difference(row["difference"]),
                    value=row["difference"] * info.scale,
                    mark=row["verdict"],
                ),
                Cell(text=interval_text(info, row, "ci"), value=wide) if tested else NOTHING,
                Cell(text=interval_text(info, row, "corrected")) if tested else NOTHING,
                number(row["p_corrected"], "{:.2g}"),
                number(row["effect_size"], "{:+.1f}"),
                number(_percent(row["improvement"]), "{:.0f}"),
                Cell(text=str(row["covers"]) or "—"),
                Cell(text=str(row["verdict"])),
            )
        )
    headings = ["Seeds", "Difference", "95% interval", "Corrected interval", "Corrected p", "Effect size"]
    headings += ["Improves (%)"]
    return Table(
        name="comparisons",
        title=f"Differences from {run.manifest.baseline}",
        columns=(
            Column(heading="Metric", numeric=False),
            strategy_column(),
            *(Column(heading=heading) for heading in headings),
            Column(heading="Covers", numeric=False),
            Column(heading="Verdict", numeric=False),
        ),
        rows=tuple(rows),
        caption=(
            "Strategy minus baseline over the seeds and items both have. The 95% interval is for one comparison alone; "
            "the corrected one, and the verdict, allow for all comparisons of the metric (Holm, 5% in all), and never "
            "err on the side of a finding: a single interval may exclude zero where its corrected one does not. "
            "Covers: whether the interval speaks of other seeds, other evaluation items, or both; held-out text is the "
            "same for all and its choice is not covered. Effect size: mean difference in standard deviations of the "
            "seeds' differences, with Hedges' correction. Improves: how often a seed picked at random is better than "
            "the baseline on items drawn anew."
        ),
        numbers=found[_NUMBERS].reset_index(drop=True),
    )


def rank_table(run: Run) -> Table | None:
    """Build the ranks of the trained rows, with ties."""
    found = run.numbers[run.numbers["rank"].notna()]
    keys = [info.key for info in run.measured([info.key for info in QUALITY]) if info.key in set(found["metric"])]
    found = found[found["metric"].isin(keys)]
    rows = [label for label in run.labels if label in set(found["label"])]
    if len(rows) < 2:
        return None
    return Table(
        name="ranks",
        title="Ranks",
        columns=(strategy_column(), *(Column(heading=describe(key).title, direction="lower") for key in keys)),
        rows=tuple((Cell(text=label), *(_rank(run.row(label, key)) for key in keys)) for label in rows),
        caption=(
            "Among rows with seeds. First number: one more than the number of rows that are distinguishably better; "
            "rows that cannot be told from the best share rank 1. Second number: how far down the row may be. Together "
            "they are a 95% interval of the row's rank, for one row at a time: its comparisons with all others are "
            "corrected for their number (Holm)."
        ),
        numbers=found[["label", "metric", "rank", "rank_worst", "num_ranked"]].reset_index(drop=True),
    )


def noise_table(run: Run) -> Table | None:
    """Build what seeds and items alone do to each metric, and the smallest difference this run could find."""
    floor = run.noise
    keys = [info.key for info in run.measured([info.key for info in QUALITY])]
    floor = floor[floor["metric"].isin(keys)]
    if floor.empty:
        return None
    order = {key: place for place, key in enumerate(keys)}
    floor = floor.sort_values("metric", key=lambda column: column.map(order), ignore_index=True)
    rows = []
    for row in floor.to_dict("records"):
        info = describe(str(row["metric"]))
        spreads = [row[name] for name in ("seed_std", "item_error", "halves", "detectable_one", "detectable")]
        told = [
            NOTHING if pd.isna(spread) else Cell(text=info.show_spread(spread), value=spread * info.scale)
            for spread in spreads
        ]
        covers = Cell(text=str(row["covers"]) or "—")
        rows.append((Cell(text=info.heading), number(row["num_items"], "{:.0f}"), *told, covers))
    families = sorted({int(row) for row in floor["family"]} - {0})
    told_family = f"at the strictest of {families[-1]} corrected comparisons" if families else "after correction"
    return Table(
        name="noise",
        title="What is noise",
        columns=(
            Column(heading="Metric", numeric=False),
            Column(heading="Items or tokens"),
            Column(heading="Between seeds"),
            Column(heading="Over items"),
            Column(heading="Between halves"),
            Column(heading="Detectable alone"),
            Column(heading="Detectable"),
            Column(heading="Covers", numeric=False),
        ),
        rows=tuple(rows),
        caption=(
            "In each metric's unit. Between seeds: standard deviation of one strategy over seeds, pooled. Over items: "
            "standard error of one trial over its items, typically. Between halves: how far one model is from itself, "
            "root mean square, when a random half of the items is compared with the other half; a full set differs "
            "from another full set by about 0.7 of that. Detectable: the smallest true difference from the baseline "
            f"that this run finds with a probability of {POWER:.0%}, as a single comparison and {told_family}; smaller "
            "ones are likely to be called not distinguishable."
        ),
        numbers=floor,
    )


def _rank(row: Mapping[str, Any]) -> Cell:
    best, worst = row["rank"], row["rank_worst"]
    if math.isnan(best):
        return NOTHING
    return Cell(text=f"{best:.0f}" if best == worst else f"{best:.0f} to {worst:.0f}", value=best + worst / 1000)


def _percent(share: float | None) -> float | None:
    return None if share is None or math.isnan(share) else 100 * share
