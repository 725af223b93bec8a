"""Two runs beside each other: which trials are the same, and how far the strategies they share differ.

Rows are matched by what a strategy computes, as their records state it, whatever label it has; where a record is
missing, by the trial's id.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from harness.analysis import settings
from harness.analysis.cells import gather
from harness.analysis.inference import holm
from harness.analysis.metrics import COSTS
from harness.analysis.read import Run
from harness.analysis.statistics import LEVEL, compare
from harness.records.record import ManifestEntry, Record

HERE, THERE = "this run", "the other run"

_NUMBERS = [
    *("label", "other_label", "metric", "mean", "other_mean", "num_pairs", "difference", "ci_low", "ci_high"),
    *("p_value", "p_corrected", "verdict"),
]


def match(here: Run, there: Run) -> dict[str, str]:
    """Match the labels of two runs; those of `here` that have no counterpart are left out."""
    ours, theirs = _identities(here), _identities(there)
    by_identity = {identity: label for label, identity in reversed(theirs.items())}
    by_trial = {entry.trial_id: entry.label for entry in there.manifest.trials}
    found = {}
    for label in here.labels:
        other = by_identity.get(ours.get(label, ""))
        trials = (entry.trial_id for entry in here.manifest.trials if entry.label == label)
        other = other or next((by_trial[trial] for trial in trials if trial in by_trial), None)
        if other is not None:
            found[label] = other
    return found


def differences(here: Run, there: Run, matched: dict[str, str]) -> pd.DataFrame:
    """Compute, per matched label and metric, this run's mean less the other's, over the seeds they share.

    Returns:
        label, other_label, metric, mean, other_mean, num_pairs, difference, ci_low, ci_high (95%, for this difference
        alone), p_value, p_corrected (by Holm's procedure over the labels of one metric) and verdict (by the corrected
        value). Costs have means and their difference, and are not tested. Without a shared seed there are only the
        means.
    """
    keys = [info.key for info in COSTS]
    parts = []
    means = {name: run.summary.set_index(["label", "metric"])["mean"] for name, run in ((HERE, here), (THERE, there))}
    for label, other in matched.items():
        ours = here.frames.metrics[here.frames.metrics["label"] == label]
        theirs = there.frames.metrics[there.frames.metrics["label"] == other]
        compared = compare(gather(pd.concat([ours.assign(label=HERE), theirs.assign(label=THERE)])), THERE)
        rows = {row["metric"]: row for row in compared.to_dict("records")}
        for metric in [*ours["metric"].unique(), *keys]:
            mean = means[HERE].get((label, metric), math.nan)
            other_mean = means[THERE].get((other, metric), math.nan)
            row = rows.get(metric, {})
            difference = row.get("difference", mean - other_mean if metric in keys else math.nan)
            tested = [row.get(name, math.nan) for name in ("ci_low", "ci_high", "p_value", "p_corrected")]
            num, verdict = row.get("num_pairs", 0), row.get("verdict")
            parts.append((label, other, metric, mean, other_mean, num, difference, *tested, verdict))
    return _corrected(pd.DataFrame(parts, columns=_NUMBERS))


def _corrected(numbers: pd.DataFrame) -> pd.DataFrame:
    """Correct the verdicts of each metric for the number of labels, each of which has a reference of its own."""
    for _, rows in numbers.groupby("metric"):
        corrected = holm(rows["p_value"].to_numpy(dtype="float64"), level=LEVEL)[0]
        numbers.loc[rows.index, "p_corrected"] = corrected
        lost = rows["verdict"].isin(["better", "worse", "different"]) & (corrected > LEVEL)
        numbers.loc[rows.index[lost], "verdict"] = "not distinguishable"
    return numbers


def _identities(run: Run) -> dict[str, str]:
    computed = {
        label: {key: value for key, value in strategy.items() if key not in ("label", "source")}
        for label, strategy in run.strategies.items()
    }
    return {label: json.dumps(parts, sort_keys=True) for label, parts in computed.items() if parts}


@dataclass(frozen=True)
class Kept:
    """One trial of a run, None for what there is none of."""

    trial_id: str
    record: Record | None


@dataclass(frozen=True)
class Counterparts:
    """A strategy and seed, and the trial of either run; `relation` says how they compare."""

    label: str
    seed: int | None
    here: Kept | None
    there: Kept | None
    relation: str


def pair_trials(here: Run, there: Run, matched: dict[str, str]) -> list[Counterparts]:
    """Put every trial of either run beside its counterpart: the one of the same strategy and seed, if there is one."""
    theirs = {(entry.label, entry.seed): trial for entry, trial in _trials(there)}
    pairs = []
    for entry, trial in _trials(here):
        other = theirs.pop((matched.get(entry.label, ""), entry.seed), None)
        pairs.append(Counterparts(entry.label, entry.seed, trial, other, _relation(trial, other)))
    pairs += [Counterparts(label, seed, None, trial, _relation(None, trial)) for (label, seed), trial in theirs.items()]
    return pairs


def _trials(run: Run) -> Iterator[tuple[ManifestEntry, Kept]]:
    for entry, record in zip(run.manifest.trials, run.frames.records, strict=True):
        yield entry, Kept(entry.trial_id, record)


def _relation(here: Kept | None, there: Kept | None) -> str:
    if here is None:
        return f"only in {THERE}"
    if there is None:
        return f"only in {HERE}"
    same = here.trial_id == there.trial_id
    ours, theirs = here.record, there.record
    if ours is None or theirs is None:
        lacking = " and ".join(name for name, record in ((HERE, ours), (THERE, theirs)) if record is None)
        return f"no record in {lacking}"
    if not same:
        return f"differs in {', '.join(_changes(ours, theirs)) or 'what its id covers and its record does not'}"
    numbers = "same" if ours.metrics == theirs.metrics else "other"
    return f"same trial, {numbers} numbers"


def _changes(here: Record, there: Record) -> list[str]:
    """Name what makes two trials of one strategy and seed different ones."""
    found = [f"workload {key}" for key in settings.changed(here.workload, there.workload)]
    found += [f"source of {key}" for key in settings.changed(here.sources, there.sources)]
    return found + (["core"] if here.core != there.core else [])
