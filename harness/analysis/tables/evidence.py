"""Tables of evidence: every difference from the baseline with its intervals, and what is noise."""

import math
from collections.abc import Mapping
from typing import Any

from harness.analysis.document import Cell, Column, Table
from harness.analysis.metrics import QUALITY, MetricInfo, describe
from harness.analysis.noise import POWER
from harness.analysis.read import Run
from harness.analysis.tables.build import NOTHING, STRATEGY, Filled, build, figures, interval_text, spreads, words

_NUMBERS = [
    *("label", "metric", "baseline", "num_pairs", "mean", "difference", "difference_std", "ci_low", "ci_high"),
    *("covers", "p_value", "p_moderated", "p_corrected", "family", "corrected_low", "corrected_high", "verdict"),
    *("effect_size", "improvement"),
]


def comparison_table(run: Run) -> Table | None:
    """Build every difference from the baseline in the main metrics, with all that is known of it."""
    if run.manifest.baseline is None or "verdict" not in run.numbers:
        return None
    keys = [info.key for info in run.measured([info.key for info in QUALITY])]
    found = run.numbers[run.numbers["metric"].isin(keys) & run.numbers["verdict"].notna()]
    if found.empty:
        return None
    found = found.sort_values("metric", key=lambda column: column.map(keys.index), kind="stable")
    return build(
        "comparisons",
        f"Differences from {run.manifest.baseline}",
        found.to_dict("records"),
        [
            words("Metric", lambda row: _info(row).heading),
            STRATEGY,
            figures("Seeds", "num_pairs", "{:.0f}"),
            (Column(heading="Difference"), _difference),
            (Column(heading="95% interval"), _interval),
            (Column(heading="Corrected interval"), _corrected),
            figures("Corrected p", "p_corrected", "{:.2g}"),
            figures("Effect size", "effect_size", "{:+.1f}"),
            figures("Improves (%)", lambda row: 100 * row["improvement"], "{:.0f}"),
            words("Covers", "covers"),
            words("Verdict", "verdict"),
        ],
        caption=(
            "Strategy minus baseline over the seeds and items both have. The 95% interval is for one comparison alone; "
            "the corrected one, and the verdict, need two keys: a test in which the comparisons of the metric steady "
            "each other's estimate of what seeds do (moderated t, Holm, 5% in all), and the strategy's own seeds alone "
            "(5%, uncorrected). The corrected interval is the wider of the two. "
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

    def column(key: str) -> Filled:
        return Column(heading=describe(key).title, direction="lower"), lambda label: _rank(run.row(label, key))

    return build(
        "ranks",
        "Ranks",
        rows,
        [STRATEGY, *map(column, keys)],
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
    floor = floor.sort_values("metric", key=lambda column: column.map(keys.index), ignore_index=True)
    families = sorted({int(row) for row in floor["family"]} - {0})
    strictest = f"at the strictest of {families[-1]} corrected comparisons" if families else "after correction"

    def spread(heading: str, key: str) -> Filled:
        return spreads(heading, lambda row: (_info(row), row[key]))

    return build(
        "noise",
        "What is noise",
        floor.to_dict("records"),
        [
            words("Metric", lambda row: _info(row).heading),
            figures("Items or tokens", "num_items", "{:.0f}"),
            spread("Between seeds", "seed_std"),
            spread("Over items", "item_error"),
            spread("Between halves", "halves"),
            spread("Detectable alone", "detectable_one"),
            spread("Detectable", "detectable"),
            spread("Detectable, own seeds", "detectable_own"),
            words("Covers", "covers"),
        ],
        caption=(
            "In each metric's unit. Between seeds: standard deviation of one strategy over seeds, pooled. Over items: "
            "standard error of one trial over its items, typically. Between halves: how far one model is from itself, "
            "root mean square, when a random half of the items is compared with the other half; a full set differs "
            "from another full set by about 0.7 of that. Detectable: the smallest true difference from the baseline "
            f"that this run finds with a probability of {POWER:.0%}, as a single comparison and {strictest}; smaller "
            "ones are likely to be called not distinguishable. Own seeds: what the latter would be if no comparison "
            "learnt from the others what seeds do."
        ),
        numbers=floor,
    )


def _rank(row: Mapping[str, Any]) -> Cell:
    best, worst = row["rank"], row["rank_worst"]
    if math.isnan(best):
        return NOTHING
    return Cell(text=f"{best:.0f}" if best == worst else f"{best:.0f} to {worst:.0f}", value=best + worst / 1000)


def _info(row: Mapping[str, Any]) -> MetricInfo:
    return describe(str(row["metric"]))


def _difference(row: Mapping[str, Any]) -> Cell:
    info = _info(row)
    text = info.show_difference(row["difference"])
    return Cell(text=text, value=row["difference"] * info.scale, mark=row["verdict"])


def _interval(row: Mapping[str, Any]) -> Cell:
    if math.isnan(row["ci_low"]):
        return NOTHING
    info = _info(row)
    return Cell(text=interval_text(info, row, "ci"), value=(row["ci_high"] - row["ci_low"]) * info.scale)


def _corrected(row: Mapping[str, Any]) -> Cell:
    return NOTHING if math.isnan(row["ci_low"]) else Cell(text=interval_text(_info(row), row, "corrected"))
