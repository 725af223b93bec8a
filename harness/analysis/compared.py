"""The section of a report that compares its run with another one."""

import math
from operator import itemgetter
from typing import Any

import pandas as pd

from harness.analysis import settings
from harness.analysis.comparison import HERE, THERE, Counterparts, Kept, differences, match, pair_trials
from harness.analysis.document import Block, Cell, Column, Section, Table, Text
from harness.analysis.metrics import QUALITY, MetricInfo
from harness.analysis.read import Run
from harness.analysis.tables.build import SEED, STRATEGY, Filled, build, words


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


def _summary(here: Run, there: Run, matched: dict[str, str], pairs: list[Counterparts]) -> tuple[str, ...]:
    num_same = sum(pair.relation.startswith("same trial") for pair in pairs)
    num_equal = sum(pair.relation == "same trial, same numbers" for pair in pairs)
    only = [f"{sum(pair.relation == f'only in {name}' for pair in pairs)} only in {name}" for name in (HERE, THERE)]
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


def _trial_table(pairs: list[Counterparts]) -> Table:
    rows = [
        {
            "label": pair.label,
            "seed": pair.seed,
            "trial_id": pair.here and pair.here.trial_id,
            "other_trial_id": pair.there and pair.there.trial_id,
            "status": _status(pair.here),
            "other_status": _status(pair.there),
            "relation": pair.relation,
        }
        for pair in pairs
    ]
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


def _status(trial: Kept | None) -> str | None:
    if trial is None:
        return None
    return "missing" if trial.record is None else trial.record.status


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
    lists = {f"workload.{key}": values for key, values in settings.workload(records).items()}
    lists |= settings.environment(records) | {"distillation core": sorted({record.core for record in records})}
    return found | {key: "; ".join(values) for key, values in lists.items()}
