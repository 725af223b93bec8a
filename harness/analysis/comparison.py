"""Two runs beside each other: which trials are the same, how far their strategies differ, and the section that says so.

Rows are matched by what a strategy computes, as their records state it, whatever label it has; where a record is
missing, by the trial's id.
"""

import json
import math
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pandas as pd

from harness.analysis import settings
from harness.analysis.cells import gather
from harness.analysis.document import Block, Cell, Column, Section, Table, Text
from harness.analysis.inference import holm
from harness.analysis.metrics import COSTS, QUALITY, MetricInfo
from harness.analysis.read import Run
from harness.analysis.statistics import LEVEL, compare
from harness.analysis.tables.build import SEED, STRATEGY, Filled, build, words
from harness.records.record import ManifestEntry, Record

HERE, THERE = "this run", "the other run"

_NUMBERS = [
    *("label", "other_label", "metric", "mean", "other_mean", "num_pairs", "difference", "ci_low", "ci_high"),
    *("p_value", "p_corrected", "verdict"),
]


def compare_runs(here: Run, there: Run) -> Section:
    """Build the section that compares a run with another one of the same or of another grid."""
    matched = match(here, there)
    pairs = pair_trials(here, there, matched)
    numbers = differences(here, there, matched)
    blocks: list[Block] = [Text(lines=_summary(here, there, matched, pairs))]
    if matched:
        blocks.append(_difference_table(numbers, matched))
    blocks.append(_trial_table(pairs))
    setting = _setting_table(here, there)
    blocks.append(setting if setting.rows else Text(lines=("Settings, versions and machines are the same.",)))
    return Section(title="Against another run", blocks=tuple(blocks))


def match(here: Run, there: Run) -> dict[str, str]:
    """Match the labels of two runs; those of `here` that have no counterpart are left out."""
    ours, theirs = _identities(here), _identities(there)
    by_trial = {entry.trial_id: entry.label for entry in there.manifest.trials}
    found = {}
    for label in here.labels:
        alike = [other for other, identity in theirs.items() if identity == ours.get(label)]
        # Rows of one strategy that differ in the workload alone are told apart by their labels.
        other = label if label in alike else next(iter(alike), None)
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
    costs = [info.key for info in COSTS]
    rows = []
    ours, theirs = (run.summary.set_index(["label", "metric"])["mean"] for run in (here, there))
    for label, other in matched.items():
        own = here.frames.metrics[here.frames.metrics["label"] == label]
        their = there.frames.metrics[there.frames.metrics["label"] == other]
        both = pd.concat([own.assign(label=HERE), their.assign(label=THERE)])
        tested = compare(gather(both), THERE).set_index("metric").to_dict("index")
        for metric in [*own["metric"].unique(), *costs]:
            means = {"mean": ours.get((label, metric), math.nan), "other_mean": theirs.get((other, metric), math.nan)}
            apart = means["mean"] - means["other_mean"] if metric in costs else math.nan
            nothing = {"num_pairs": 0, "difference": apart, "verdict": None}
            names = {"label": label, "other_label": other, "metric": metric}
            rows.append(nothing | tested.get(metric, {}) | names | means)
    return _corrected(pd.DataFrame(rows, columns=_NUMBERS))


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


def pair_trials(here: Run, there: Run, matched: dict[str, str]) -> list[dict[str, Any]]:
    """Put every trial of either run beside its counterpart: the one of the same strategy and seed, if there is one.

    Returns:
        Rows of label, seed, trial_id, other_trial_id, status, other_status (None for what there is none of) and
        relation, which says how the two compare.
    """
    theirs = {(entry.label, entry.seed): (entry.trial_id, record) for entry, record in _trials(there)}
    rows = []
    for entry, record in _trials(here):
        other = theirs.pop((matched.get(entry.label, ""), entry.seed), None)
        rows.append(_beside(entry.label, entry.seed, (entry.trial_id, record), other))
    return rows + [_beside(label, seed, None, trial) for (label, seed), trial in theirs.items()]


# A trial's id and its record, which it may lack.
_Trial = tuple[str, Record | None]


def _trials(run: Run) -> Iterator[tuple[ManifestEntry, Record | None]]:
    return zip(run.manifest.trials, run.frames.records, strict=True)


def _beside(label: str, seed: int | None, here: _Trial | None, there: _Trial | None) -> dict[str, Any]:
    ids, states = zip(
        *((None, None) if one is None else (one[0], _status(one[1])) for one in (here, there)), strict=True
    )
    row = {"label": label, "seed": seed, "trial_id": ids[0], "other_trial_id": ids[1]}
    return row | {"status": states[0], "other_status": states[1], "relation": _relation(here, there)}


def _status(record: Record | None) -> str:
    return "missing" if record is None else record.status


def _relation(here: _Trial | None, there: _Trial | None) -> str:
    if here is None or there is None:
        return f"only in {THERE if here is None else HERE}"
    (one, ours), (other, theirs) = here, there
    if ours is None or theirs is None:
        lacking = " and ".join(name for name, record in ((HERE, ours), (THERE, theirs)) if record is None)
        return f"no record in {lacking}"
    if one != other:
        return f"differs in {', '.join(_changes(ours, theirs)) or 'what its id covers and its record does not'}"
    return f"same trial, {'same' if ours.metrics == theirs.metrics else 'other'} numbers"


def _changes(here: Record, there: Record) -> list[str]:
    """Name what makes two trials of one strategy and seed different ones."""
    found = [f"workload {key}" for key in settings.changed(here.workload, there.workload)]
    found += [f"source of {key}" for key in settings.changed(here.sources, there.sources)]
    return found + (["core"] if here.core != there.core else [])


def _summary(here: Run, there: Run, matched: dict[str, str], pairs: list[dict[str, Any]]) -> tuple[str, ...]:
    relations = [pair["relation"] for pair in pairs]
    num_same = sum(relation.startswith("same trial") for relation in relations)
    num_equal = relations.count("same trial, same numbers")
    only = [f"{relations.count(f'only in {name}')} only in {name}" for name in (HERE, THERE)]
    unmatched = [label for label in here.labels if label not in matched]
    unmatched_there = [label for label in there.labels if label not in matched.values()]
    lines = [
        f"The other run is of grid {there.manifest.grid}, workload {there.manifest.workload}, {there.manifest.split} "
        f"split, {_when(there)}; this one is of {here.manifest.grid}, {here.manifest.workload}, {here.manifest.split} "
        f"split, {_when(here)}. Strategies are matched by what they compute, not by their labels.",
        f"Of {len(pairs)} trials in all, {num_same} have the same id in both runs, and {num_equal} of these the same "
        f"numbers to the last digit; {', '.join(only)}.",
    ]
    if unmatched:
        lines.append(f"Strategies only in {HERE}: {'; '.join(unmatched)}.")
    if unmatched_there:
        lines.append(f"Strategies only in {THERE}: {'; '.join(unmatched_there)}.")
    return tuple(lines)


def _when(run: Run) -> str:
    times = sorted(record.finished_at for record in run.frames.records if record is not None)
    return f"finished {times[-1][:10]}" if times else "without any record"


def _difference_table(numbers: pd.DataFrame, matched: dict[str, str]) -> Table:
    measured = set(numbers.loc[numbers["difference"].notna(), "metric"])
    infos = [info for info in QUALITY if info.key in measured]
    rows = {(row["label"], row["metric"]): {str(k): v for k, v in row.items()} for row in numbers.to_dict("records")}

    def column(info: MetricInfo) -> Filled:
        heading = Column(heading=f"Δ {info.heading}", direction=info.direction)
        return heading, lambda label: _difference(info, rows.get((label, info.key)))

    return build(
        "compared_differences",
        "This run less the other one",
        list(matched),
        [
            words(
                "Strategy", lambda label: label if label == (other := matched[label]) else f"{label} (there: {other})"
            ),
            (Column(heading="Shared seeds"), lambda label: _pairs(rows, label)),
            *map(column, infos),
        ],
        caption="Difference over the seeds both runs share, with its 95% interval for this difference alone; it covers "
        "training seeds, not the choice of items. Marks are corrected for the number of strategies (Holm, 5% per "
        "metric). A single pair, as a strategy without a seed has, gives no interval. Identical: to the last digit. "
        "The CSV holds the remaining metrics and the costs.",
        numbers=numbers,
    )


def _pairs(rows: dict[tuple[str, str], dict[str, Any]], label: str) -> Cell:
    num = max((row["num_pairs"] for (name, _), row in rows.items() if name == label), default=0)
    return Cell(text=str(num), value=float(num))


def _difference(info: MetricInfo, row: dict[str, Any] | None) -> Cell:
    if row is None or math.isnan(row["difference"]):
        return Cell(text="—")
    # Without an interval there is one pair; a mean over several may be the same by chance.
    if row["difference"] == 0 and (math.isnan(row["ci_low"]) or row["ci_low"] == row["ci_high"]):
        return Cell(text="identical", value=0.0)
    text = info.show_difference(row["difference"])
    if not math.isnan(row["ci_low"]):
        text += f" [{info.show_difference(row['ci_low'])}, {info.show_difference(row['ci_high'])}]"
    means = f"{HERE} {info.show(row['mean'])}, {THERE} {info.show(row['other_mean'])}; {row['verdict']}"
    return Cell(text=text, value=row["difference"] * info.scale, mark=row["verdict"], hint=means)


def _trial_table(rows: list[dict[str, Any]]) -> Table:
    return build(
        "compared_trials",
        "Trial by trial",
        rows,
        [
            STRATEGY,
            SEED,
            words("Trial", "trial_id", code=True),
            words("The other's trial", "other_trial_id", code=True),
            words("Status", "status"),
            words("The other's status", "other_status"),
            words("How they compare", "relation"),
        ],
        caption="A trial's id is a hash of what it computes: strategy, workload, seed, split and source. Two runs of "
        "one trial give the same numbers where machine and versions do.",
        numbers=pd.DataFrame(rows).astype({"seed": "Int64"}),
    )


def _setting_table(here: Run, there: Run) -> Table:
    ours, theirs = _settings(here), _settings(there)
    rows = [(key, ours.get(key, ""), theirs.get(key, "")) for key in settings.changed(ours, theirs)]
    return build(
        "compared_settings",
        "What the runs do not have in common",
        rows,
        [words(name, itemgetter(place)) for place, name in enumerate(("Setting", "This run", "The other run"))],
        caption="Settings, versions and machines; several values within one run are separated by semicolons.",
        numbers=pd.DataFrame(rows, columns=["setting", "this_run", "other_run"]),
    )


def _settings(run: Run) -> dict[str, str]:
    records = [record for record in run.frames.records if record is not None]
    found = {key: str(getattr(run.manifest, key)) for key in ("grid", "split", "baseline", "command")}
    groups = settings.grouped(records)
    lists = {f"workload.{key}": values for key, values in groups["workload"].items()} | groups["version"]
    return found | {key: "; ".join(values) for key, values in lists.items()}
