"""Sentences written by rule from the statistics, so that a report says what its numbers say and no more."""

import math
from collections.abc import Iterator
from typing import Any

from harness.analysis import settings
from harness.analysis.document import Block, Text
from harness.analysis.hypotheses import margin_of, not_worse
from harness.analysis.metrics import MetricInfo
from harness.analysis.read import Run
from harness.analysis.tables.build import counts, interval_text
from harness.analysis.tables.evidence import noise_table
from harness.analysis.tables.reads import flops

HEADLINES = ("heldout_loss", "accuracy", "perplexity", "teacher_kl")

_TITLES = {
    "better": "Better",
    "worse": "Worse",
    "not distinguishable": "Not distinguishable",
    "untested": "Not testable (fewer than two shared seeds, or a value that is not finite)",
}


def findings(run: Run) -> tuple[Block, ...]:
    """Say how the baseline differs from models as they are, and every strategy from the baseline.

    Every difference stands with an interval; "better" and "worse" only where the interval that is corrected for the
    number of comparisons excludes zero.

    Returns:
        Points, metric by metric. Without a baseline, or without a finished trial of it, the sentence that says so.
    """
    if run.manifest.baseline is None:
        return (Text(lines=("The grid names no baseline, so nothing is compared.",)),)
    shown = [info for info in run.measured(HEADLINES) if run.row(run.manifest.baseline, info.key)["n"] > 0]
    if not shown:
        return (Text(lines=("The baseline has no finished trial, so nothing is compared.",)),)
    blocks: list[Block] = []
    head = [line for info in shown for line in _against_untrained(run, info)]
    head += [line for info in shown for line in _tally(run, info)]
    head += list(_cheaper(run, shown))
    if head:
        blocks.append(Text(lines=tuple(head), points=True))
    for info in shown:
        lines = list(_verdicts(run, info))
        if lines:
            value = info.show(run.row(run.manifest.baseline, info.key)["mean"])
            title = f"{info.heading}, against {run.manifest.baseline} at {value}; intervals are corrected:"
            blocks += [Text(lines=(title,)), Text(lines=tuple(lines), points=True)]
    return tuple(blocks)


def noise(run: Run) -> tuple[Block, ...]:
    """Say what the intervals cover and what they leave out, and what this run could not have found."""
    lines = [
        f"Seeds planned: {', '.join(map(str, run.seeds)) or 'none'}. Trials of one seed share initialisation and data "
        "order, and all trials share the evaluation items, so differences are taken seed by seed and item by item.",
        "An interval has two parts: what another seed would change, estimated from the seeds at hand, and what other "
        "items would change. With three seeds the first rests on two degrees of freedom, 4.3 standard errors each way "
        "where a normal interval would claim 1.96. So a verdict rests on what all comparisons of the metric show of "
        "the seeds' part, and on the strategy's own seeds besides. A row without a seed is a constant.",
    ]
    if "items" not in run.frames.tables:
        lines.append("No single items are at hand, so no difference covers the choice of evaluation items.")
    only = [info.title for info in run.measured(HEADLINES) if _covers(run, info) == {"seeds"}]
    if only:
        lines.append(
            f"Only seeds are covered by the differences in {' and '.join(only)}: another held-out text might "
            "move them, which no number here speaks of."
        )
    blocks: list[Block] = [Text(lines=tuple(lines))]
    table = noise_table(run)
    points = []
    for row in [] if table is None else table.numbers.to_dict("records"):
        info = next(one for one in run.measured([str(row["metric"])]))
        if not math.isnan(row["detectable"]):
            points.append(
                f"{info.heading}: a true difference below {info.show_spread(row['detectable_one'])} in a single "
                f"comparison, or {info.show_spread(row['detectable'])} among {row['family']}, was more likely than one "
                "in five to be missed."
            )
    if points:
        blocks.append(Text(lines=tuple(points), points=True))
    return tuple(blocks)


def warnings(run: Run) -> tuple[str, ...]:
    """List what makes a table's rows less comparable than they look, one sentence each."""
    sentences = []
    trials = run.frames.trials
    if missing := counts(trials["status"], "failed", "missing"):
        sentences.append(f"The grid is incomplete: of {len(trials)} trials, {missing}.")
    partial = trials.assign(done=trials["status"] == "finished").groupby("label", sort=False)["done"]
    survivors = [str(label) for label, done in partial if done.any() and not done.all()]
    if survivors:
        sentences.append(
            f"Means of {', '.join(survivors)} are over the trials that finished; if the others failed because of what "
            "the strategy does, they flatter it."
        )
    records = [record for record in run.frames.records if record is not None and record.status == "finished"]
    cores = sorted({record.core for record in records})
    if len(cores) > 1:
        sentences.append(f"The trials ran with different versions of the distillation core: {', '.join(cores)}.")
    for key, values in settings.environment(records).items():
        if len(values) > 1:
            sentences.append(f"The trials ran under different {key}: {', '.join(values)}.")
    named = sum("arithmetic" in record.environment for record in records)
    if 0 < named < len(records):
        sentences.append(
            f"The arithmetic is recorded of {named} of {len(records)} trials; the others ran before it was."
        )
    devices = sorted(trials["peak_device"].dropna().unique())
    if len(devices) > 1:
        sentences.append(f"Peak memory is that of different devices: {', '.join(devices)}.")
    if 0 < len(run.seeds) < 3:
        few = "a single seed, so nothing is tested" if len(run.seeds) == 1 else "two seeds, on one degree of freedom"
        sentences.append(f"Every comparison rests on {few}.")
    if run.manifest.baseline is not None and not run.records.get(run.manifest.baseline):
        sentences.append(f"The baseline {run.manifest.baseline} has no finished trial, so nothing is compared.")
    return tuple(sentences)


def _compared(run: Run, info: MetricInfo) -> dict[str, dict[str, Any]]:
    rows = {label: run.row(label, info.key) for label in run.labels}
    return {label: row for label, row in rows.items() if isinstance(row.get("verdict"), str)}


def _covers(run: Run, info: MetricInfo) -> set[str]:
    return {row["covers"] for row in _compared(run, info).values() if row["covers"]}


def _against_untrained(run: Run, info: MetricInfo) -> Iterator[str]:
    """Compare the baseline with each model as it is: the baseline's comparison, read the other way round."""
    baseline = str(run.manifest.baseline)
    opposite = {"better": "worse", "worse": "better"}
    for label, row in _compared(run, info).items():
        if label not in run.seedless or math.isnan(row["ci_low"]):
            continue
        low, high = info.show_difference(-row["corrected_high"]), info.show_difference(-row["corrected_low"])
        yield (
            f"{baseline} against {label}: {info.heading} {info.show(row['mean'])} → "
            f"{info.show(run.row(baseline, info.key)['mean'])}, difference {info.show_difference(-row['difference'])} "
            f"[{low}, {high}], {opposite.get(row['verdict'], row['verdict'])}."
        )


def _tally(run: Run, info: MetricInfo) -> Iterator[str]:
    verdicts = [row["verdict"] for label, row in _compared(run, info).items() if label not in run.seedless]
    if len(verdicts) < 2:
        return
    counts = [f"{verdicts.count(name)} {name}" for name in (*_TITLES, "different") if name in verdicts]
    yield f"{info.title}: of {len(verdicts)} trained strategies, against {run.manifest.baseline}, {', '.join(counts)}."


def _cheaper(run: Run, shown: list[MetricInfo]) -> Iterator[str]:
    """Name, per metric, the cheapest strategy that is shown to be no worse than the baseline by a margin."""
    baseline = str(run.manifest.baseline)
    base = run.mean(baseline, flops)
    if not base:
        return
    costs = {
        label: cost / base
        for label in run.labels
        if label not in run.seedless and (cost := run.mean(label, flops)) is not None and cost < base
    }
    for info in shown:
        margin = margin_of(run, info.key)
        if margin is None or not costs:
            continue
        held = not_worse(run, info.key, costs, margin)
        shown_to_be = sorted((label for label, found in held.items() if found), key=lambda name: (costs[name], name))
        said = f"{info.title}: of {len(held)} strategies that take fewer FLOPs than {baseline}, "
        what = f"shown to be no worse, by a margin of {info.show_spread(margin)}"
        if not shown_to_be:
            yield f"{said}none is {what}."
        else:
            cheapest, are = shown_to_be[0], "is" if len(shown_to_be) == 1 else "are"
            yield f"{said}{len(shown_to_be)} {are} {what}; the cheapest: {cheapest}, {costs[cheapest]:.0%} of them."


def _verdicts(run: Run, info: MetricInfo) -> Iterator[str]:
    rows = _compared(run, info)
    for verdict, title in (_TITLES | {"different": "Different"}).items():
        told = [f"{label} {_difference(info, row)}" for label, row in rows.items() if row["verdict"] == verdict]
        if told:
            yield f"{title}: {'; '.join(told)}."


def _difference(info: MetricInfo, row: dict[str, Any]) -> str:
    text = info.show_difference(row["difference"])
    return text if math.isnan(row["ci_low"]) else f"{text} {interval_text(info, row, 'corrected')}"
