"""Sentences written by rule from the statistics, so that a report says what its numbers say and no more."""

import math
from collections.abc import Iterable

import pandas as pd

from harness.analysis.frame import Frames, labels
from harness.analysis.metrics import MetricInfo, describe
from harness.analysis.statistics import compare
from harness.analysis.tables import markdown
from harness.results import Manifest, Record

HEADLINES = ("heldout_loss", "accuracy", "perplexity", "teacher_kl")

_TITLES = {
    "better": "Distinguishably better",
    "worse": "Distinguishably worse",
    "not distinguishable": "Not distinguishable",
    "untested": "Not testable (fewer than two shared seeds, or a value that is not finite)",
}
_COUNTED = _TITLES | {"untested": "Not testable"}


def findings(numbers: pd.DataFrame, frames: Frames, manifest: Manifest) -> str:
    """Write, as Markdown, how every strategy differs from the baseline, and the baseline from the seedless rows.

    Args:
        numbers: the numbers of `tables.tidy`.
        frames: the grid's frames.
        manifest: names the baseline.
    """
    if manifest.baseline is None:
        return "The grid names no baseline, so nothing is compared.\n"
    measured = set(numbers.loc[numbers["n"] > 0, "metric"])
    headlines = [describe(key) for key in HEADLINES if key in measured]
    means = {(row["label"], row["metric"]): float(row["mean"]) for row in numbers.to_dict("records")}
    lines = []
    for reference in _seedless(frames, manifest):
        against = _rows(compare(frames.metrics, reference))
        for info in headlines:
            pair = against.get((manifest.baseline, info.key))
            if pair is not None:
                lines.append(_versus(info, manifest.baseline, reference, means, pair))
            lines += _tally(info, reference, [against[key] for key in against if key[1] == info.key], frames)
    ours = _rows(compare(frames.metrics, manifest.baseline))
    for info in headlines:
        lines += ["", *_ranking(info, manifest, means, ours)]
    return ("\n".join(lines).strip() or "The baseline has no finished trial, so nothing is compared.") + "\n"


def noise(numbers: pd.DataFrame, frames: Frames) -> str:
    """Write, as Markdown, what the intervals cover, what they leave out, and how large what they leave out is."""
    seeds = sorted(int(seed) for seed in frames.trials["seed"].dropna().unique())
    pairs = numbers["num_pairs"].dropna() if "num_pairs" in numbers else pd.Series(dtype="float64")
    text = [
        f"Seeds planned: {', '.join(map(str, seeds)) or 'none'}. Trials of one seed share initialisation and data "
        "order, so a difference is taken seed by seed. Its 95% interval is Student's t over those differences"
        + (f" ({int(pairs.min())} to {int(pairs.max())} of them). " if len(pairs) else ". ")
        + "A row without a seed is a constant: it is compared with every seed of the other side, whose spread alone "
        "enters the interval. No correction is made for the number of comparisons: at this level one in twenty "
        "differences between equals looks real.",
        "",
        "The intervals speak of training seeds. They do not cover the choice of evaluation items, which every trial "
        "shares. The standard error of a single trial over its items, typically:",
        "",
    ]
    finished = frames.metrics[(frames.metrics["status"] == "finished") & frames.metrics["stderr"].notna()]
    for key in finished["metric"].unique():
        info, rows = describe(key), finished[finished["metric"] == key]
        num = f"{int(rows['num'].min())}" if rows["num"].nunique() == 1 else f"at least {int(rows['num'].min())}"
        unit = f" {info.unit}" if info.unit else ""
        text.append(f"- {markdown(info.title)}: {info.show_spread(rows['stderr'].median())}{unit} over {num} items")
    return "\n".join(text if len(finished) else [*text[:-1], "", "- no record holds one"]) + "\n"


def warnings(frames: Frames, manifest: Manifest) -> tuple[str, ...]:
    """List what makes a table's rows less comparable than they look, one sentence each."""
    found = []
    status = frames.trials["status"].value_counts().to_dict()
    if status.get("finished", 0) < len(frames.trials):
        rest = ", ".join(f"{status[name]} {name}" for name in ("failed", "missing") if name in status)
        found.append(f"The grid is incomplete: of {len(frames.trials)} trials, {rest}.")
    records = [record for record in frames.records if record is not None and record.status == "finished"]
    cores = sorted({record.core for record in records})
    if len(cores) > 1:
        found.append(f"The trials ran with different versions of the distillation core: {', '.join(cores)}.")
    for key, values in environment(records).items():
        if len(values) > 1:
            found.append(f"The trials ran under different {key}: {', '.join(values)}.")
    devices = sorted(frames.trials["peak_device"].dropna().unique())
    if len(devices) > 1:
        found.append(f"Peak memory is that of different devices: {', '.join(devices)}.")
    if manifest.baseline is not None:
        ours = frames.trials[(frames.trials["label"] == manifest.baseline) & (frames.trials["status"] == "finished")]
        if ours.empty:
            found.append(f"The baseline {manifest.baseline} has no finished trial, so nothing is compared.")
    return tuple(found)


def environment(records: Iterable[Record]) -> dict[str, list[str]]:
    """Collect the distinct values of every key in the records' environments."""
    found: dict[str, set[str]] = {}
    for record in records:
        for key, value in record.environment.items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(found[key]) for key in sorted(found)}


def _seedless(frames: Frames, manifest: Manifest) -> list[str]:
    seedless = set(frames.trials.loc[frames.trials["seed"].isna(), "label"])
    return [label for label in labels(manifest) if label in seedless and label != manifest.baseline]


def _rows(comparison: pd.DataFrame) -> dict[tuple[str, str], dict[str, object]]:
    rows = [{str(name): value for name, value in row.items()} for row in comparison.to_dict("records")]
    return {(str(row["label"]), str(row["metric"])): row for row in rows}


def _versus(
    info: MetricInfo, label: str, reference: str, means: dict[tuple[str, str], float], row: dict[str, object]
) -> str:
    before, after = info.show(means[reference, info.key]), info.show(means[label, info.key])
    verdict = str(row["verdict"])
    told = f"distinguishable ({verdict})" if row["distinguishable"] else verdict
    return (
        f"- {markdown(label)} against {markdown(reference)}: {info.heading} {before} → {after}, "
        f"difference {_difference(info, row)}, {told}."
    )


def _tally(info: MetricInfo, reference: str, rows: list[dict[str, object]], frames: Frames) -> list[str]:
    seeded = set(frames.trials.loc[frames.trials["seed"].notna(), "label"])
    verdicts = [row["verdict"] for row in rows if row["label"] in seeded]
    counts = [
        f"{verdicts.count(verdict)} {title.lower()}" for verdict, title in _COUNTED.items() if verdict in verdicts
    ]
    if len(verdicts) < 2:
        return []
    return [
        f"- All {len(verdicts)} trained strategies against {markdown(reference)}, {info.title}: {', '.join(counts)}."
    ]


def _ranking(
    info: MetricInfo,
    manifest: Manifest,
    means: dict[tuple[str, str], float],
    ours: dict[tuple[str, str], dict[str, object]],
) -> list[str]:
    baseline = str(manifest.baseline)
    if math.isnan(means[baseline, info.key]):
        return []
    lines = [f"**{info.heading}**, against {markdown(baseline)} at {info.show(means[baseline, info.key])}:", ""]
    for verdict, title in _TITLES.items():
        rows = [ours[label, info.key] for label in labels(manifest) if (label, info.key) in ours]
        told = [f"{markdown(str(r['label']))} {_difference(info, r)}" for r in rows if r["verdict"] == verdict]
        if told:
            lines.append(f"- {title}: {'; '.join(told)}.")
    return lines


def _difference(info: MetricInfo, row: dict[str, object]) -> str:
    value, low, high = (float(str(row[name])) for name in ("difference", "ci_low", "ci_high"))
    text = info.show_difference(value)
    return text if math.isnan(low) else f"{text} [{info.show_difference(low)}, {info.show_difference(high)}]"
