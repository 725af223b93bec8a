"""Trials of a report, run again and set beside their records there."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from harness.analysis import reproduced
from harness.analysis.original import Original
from harness.analysis.reproduced import Reproduced
from harness.config import Workload
from harness.config.arithmetic import Arithmetic
from harness.config.errors import UnknownNameError, UserError, first_line, unknown
from harness.config.overrides import Overrides
from harness.config.strategy import read_strategy
from harness.data.documents.corpus import installed_versions
from harness.records.layout import Results
from harness.records.record import ManifestEntry, Record
from harness.records.store import read_record
from harness.run.needs import check_needs
from harness.run.options import Options
from harness.run.plan import Plan, make_plan
from harness.run.run import run_missing
from harness.run.tune import tuned
from harness.trial.trial import NOT_IDENTITY, Trial


@dataclass(frozen=True)
class Command:
    """How a report's manifest says that it is made.

    Attributes:
        grid: the grid's file.
        workload: instead of the grid's, None for that one.
        overrides: what stands in the workload instead, by dotted path.
        split: instead of the grid's, None for that one.
        diagnostics: at every so many steps, None for what the grid says.
        teacher: `online` for every strategy that would read the teacher's cached states.
        decide: the most seeds of a row that is undecided, None for those of the grid.
        cpu: whether it asks for no GPU.
    """

    grid: Path
    workload: str | None = None
    overrides: Overrides = field(default_factory=dict)
    split: str | None = None
    diagnostics: int | None = None
    teacher: str | None = None
    decide: int | None = None
    cpu: bool = False


def plan_again(
    original: Original,
    command: Command,
    results: Results,
    *,
    arithmetic: Arithmetic | None,
    only: Sequence[str] = (),
    num: int | None = None,
    seed: int = 0,
) -> tuple[Plan, Mapping[str, tuple[ManifestEntry, Record]]]:
    """Find the trials that a report's records are of, as the grid makes them now, and choose those to run.

    Trials are found by strategy and seed, because ids change with what they are hashed from.

    Args:
        original: the report.
        command: how it was made.
        results: where the trials will leave their records.
        arithmetic: instead of the workload's.
        only: keep labels called, or beginning like, one of these, letter case aside; empty keeps all.
        num: keep so many trials, drawn without replacement; None keeps all.
        seed: of the draw.

    Returns:
        The plan, and for each trial to run, by its id, its place in the report and its record there.

    Raises:
        UserError: the grid, its workload or a strategy is gone or is another one than it was; or more trials are asked
            for than there are.
        UnknownNameError: no row of the report is called that.
    """
    tuning = original.manifest.tuning
    try:
        plan = make_plan(
            command.grid,
            results,
            workload=command.workload,
            overrides=command.overrides,
            split=command.split,
            diagnostics=command.diagnostics,
            teacher=command.teacher,
            decide=command.decide,
            cpu=command.cpu,
            change=lambda grid: grid if tuning is None else tuned(grid, tuning.chosen),
        )
    except (UserError, UnknownNameError) as error:
        raise UserError(f"{original.folder} cannot be reproduced: {first_line(error)}") from None
    entries = _chosen(original, only)
    if num is not None:
        if not 1 <= num <= len(entries):
            raise UserError(f"--trials is {num}; {original.folder} has 1 to {len(entries)} trials to draw from")
        entries = random.Random(seed).sample(entries, num)  # noqa: S311 - not a secret
    records: dict[str, tuple[ManifestEntry, Record]] = {}
    for entry, record in entries:
        trial = _counterpart(plan, entry, record)
        if trial is None:
            raise UserError(
                f"{original.folder} cannot be reproduced: {command.grid} has no such trial as {entry.label}, seed "
                f"{entry.seed}, any more"
            )
        _check_workload(original, record, trial.workload)
        records[trial.id] = (entry, record)
    every = {trial.id: trial for _, trial in (*plan.rows, *plan.further)}
    trials = tuple(_with(trial, arithmetic) for trial in every.values() if trial.id in records)
    workload = plan.workload if not trials else trials[0].workload
    return replace(plan, chosen=trials, todo=trials, workload=workload), records


def run_again(
    original: Original,
    plan: Plan,
    records: Mapping[str, tuple[ManifestEntry, Record]],
    results: Results,
    console: Console,
) -> list[Reproduced]:
    """Run the trials of `plan_again` that have no record yet, and compare each with its record in the report.

    Raises:
        UserError: a trial did not finish; names the first and its reason.
    """
    options = Options(trackers=())
    check_needs(plan.todo, results, options)
    run_missing(plan, results, console, options)
    outcomes = []
    for trial in plan.todo:
        entry, recorded = records[trial.id]
        path = results.record(trial.id)
        measured = read_record(path) if path.exists() else None
        if measured is None or measured.status != "finished":
            failure = None if measured is None else measured.failure
            reason = "it was stopped" if failure is None else first_line(f"{failure.kind}: {failure.message}")
            raise UserError(f"{trial.name} did not finish: {reason}")
        outcomes.append(original.compare(entry, recorded, measured, results))
    return outcomes


def _chosen(original: Original, only: Sequence[str]) -> list[tuple[ManifestEntry, Record]]:
    """Return the finished trials of the rows that are asked for."""
    known = dict.fromkeys(entry.label for entry, _ in original.finished)
    kept = set() if only else set(known)
    for label in only:
        matching = {name for name in known if name.lower() == label.lower()}
        matching = matching or {name for name in known if name.lower().startswith(label.lower())}
        if not matching:
            raise unknown("row", label, known)
        kept |= matching
    return [(entry, record) for entry, record in original.finished if entry.label in kept]


def _counterpart(plan: Plan, entry: ManifestEntry, record: Record) -> Trial | None:
    """Return the grid's trial of a record's strategy and seed; of rows that differ in the workload alone, its own."""
    try:
        identity = read_strategy(record.strategy).identity()
    except UserError:  # a setting that strategies do not have any more
        return None
    rows = (*plan.rows, *plan.further)
    found = [row for row in rows if (row[1].strategy.identity(), row[1].seed) == (identity, record.seed)]
    alike = [(not _changes(record, trial.workload), label == entry.label) for label, trial in found]
    return found[alike.index(max(alike))][1] if found else None


def _check_workload(original: Original, record: Record, workload: Workload) -> None:
    """Refuse a workload that computes something else than a record's."""
    if changes := _changes(record, workload):
        raise UserError(
            f"{original.folder} cannot be reproduced: its workload {workload.name} has changed: {changes[0]}"
        )
    versions = installed_versions(workload.evaluation.packages)
    for package in filter(None, record.environment.get("documents", "").split(", ")):
        name, _, version = package.partition(" ")
        if versions.get(name, version) != version:
            raise UserError(
                f"{original.folder} cannot be reproduced: its documents are of {package}, and {versions[name]} is "
                f"installed: pip install {name}=={version}"
            )


def _changes(record: Record, workload: Workload) -> list[str]:
    """Say in what a workload computes something else than a record's."""
    sections = [f"{name}.{key}" for name, keys in NOT_IDENTITY.items() if isinstance(keys, set) for key in keys]
    return reproduced.changed_workload(
        record.workload, workload.model_dump(mode="json"), [*reproduced.PLACES, *sections]
    )


def _with(trial: Trial, arithmetic: Arithmetic | None) -> Trial:
    if arithmetic is None:
        return trial
    resources = trial.workload.resources.model_copy(update={"arithmetic": arithmetic})
    return replace(trial, workload=trial.workload.model_copy(update={"resources": resources}))
