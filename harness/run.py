"""A grid from plan to report: prepare what trials share, run what is missing, write the manifest and the report."""

import tempfile
from pathlib import Path

from rich.console import Console

from harness.analysis.report import print_report, write_report
from harness.errors import UserError
from harness.plan import Plan
from harness.prepare import prepare_plan
from harness.progress import Progress
from harness.results import Manifest, ManifestEntry, remove_trial, write_json


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before any work is done; leaves nothing behind.

    Raises:
        UserError: it is a file, or writing there fails; names the folder and the reason.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{folder} cannot be a results folder: {'it' if existing == folder else existing} is a file")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from None


def run_plan(plan: Plan, results: Path, reports: Path, console: Console, *, command: str) -> int:
    """Run the missing trials of a plan, then write and print its report.

    Args:
        plan: a checked grid.
        results: the results root.
        reports: where the report's folder goes.
        console: where to write.
        command: how to do this again, for the report.

    Returns:
        How many trials failed or were kept from ending.
    """
    unfinished = 0
    write_manifest(plan, results, command)
    if not plan.todo:
        console.print(f"All {len(plan.trials)} trials of {plan.grid.name} are finished; nothing to run.")
    else:
        prepare_plan(plan, results, console)
        unfinished = _schedule(plan, results, console)
    report = write_report(results, plan.grid.name, reports)
    print_report(report, console)
    return unfinished


def write_manifest(plan: Plan, results: Path, command: str) -> None:
    """Say which trials the grid consists of."""
    manifest = Manifest(
        grid=plan.grid.name,
        hypothesis=plan.grid.hypothesis,
        workload=plan.workload.name,
        baseline=plan.grid.baseline if plan.grid.baseline in {label for label, _ in plan.rows} else None,
        split=plan.grid.split,
        command=command,
        trials=tuple(ManifestEntry(trial_id=trial.id, label=label, seed=trial.seed) for label, trial in plan.rows),
    )
    write_json(results / plan.grid.name / "manifest.json", manifest.model_dump_json(indent=1))


def _schedule(plan: Plan, results: Path, console: Console) -> int:
    from harness.schedule import run_trials

    skipped = len(plan.trials) - len(plan.todo)
    finished = f", {skipped} are finished already" if skipped else ""
    console.print(f"{plan.grid.name}: {len(plan.todo)} trials to run{finished}. Starting workers.")
    for trial in plan.todo:
        remove_trial(results, trial.id)
    progress = Progress(console=console, total=len(plan.todo))
    with progress.shown():
        outcome = run_trials(plan.todo, results, progress)
    console.print(
        f"Trials: {len(outcome.finished)} finished, {len(outcome.failed)} failed, {len(outcome.pending)} not run.",
        highlight=False,
    )
    return len(outcome.failed) + len(outcome.pending)
