"""A grid from plan to report: prepare what trials share, run what is missing, write the manifest and the report."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from harness.analysis.report import print_report, write_report
from harness.config.errors import UserError
from harness.distill.parts import StaleError
from harness.records.layout import Results
from harness.records.record import Manifest, ManifestEntry
from harness.records.store import is_whole_or_damaged, write_manifest
from harness.run.attempt import Options, conditions
from harness.run.events import Outcome, Watcher, Watchers
from harness.run.plan import Plan
from harness.run.prepare import prepare_plan
from harness.run.progress import Progress
from harness.run.terminal import command_line
from harness.run.trash import Trash
from harness.teacher.inputs import Part
from harness.teacher.store import Spread
from harness.trial.checkpoint import check

# Options of `harness run` that choose what is run, with whether a value follows.
_OF_A_PART = {"--only": True, "--seeds": True, "--force": False, "--fresh": False, "--rebuild": False}
_INTERRUPTED = 130


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


def complete(results: Results, console: Console) -> None:
    """Exchange finished work with the results folder's mirror, if it has one, and note which that is.

    Raises:
        UserError: the mirror cannot be reached.
    """
    if results.mirror is None:
        return
    results.note_mirror()
    fetched, copied = results.exchange()
    if fetched or copied:
        line = f"{results.mirror.uri}: {fetched} trials fetched, {copied} copied."
        console.print(line, highlight=False, markup=False)


def tell_elsewhere(plan: Plan, results: Results, console: Console) -> None:
    """Say how many of the trials to run a run would find at the results folder's mirror, if it has one.

    Raises:
        UserError: the mirror cannot be read.
    """
    if results.mirror is None:
        return
    there = set(results.copies(results.trials))
    line = f"{results.mirror.uri} has {sum(trial.id in there for trial in plan.todo)} of the {len(plan.todo)}"
    console.print(f"{line} trials to run.", highlight=False, markup=False)


@dataclass(frozen=True, kw_only=True)
class How:
    """How a plan is run, and what becomes of what an earlier run left.

    Attributes:
        options: where and how trials run.
        address: of a running Ray cluster; a Ray of this machine alone if None.
        trackers: what is told of losses and metrics while trials run: `harness.run.tracking.TRACKERS`.
        fresh: start over: records and checkpoints of the chosen trials go to the trash.
        rebuild: the same for damaged records and checkpoints only; without it they are refused.
    """

    options: Options = field(default_factory=Options)
    address: str | None = None
    trackers: tuple[str, ...] = ("tensorboard",)
    fresh: bool = False
    rebuild: bool = False


def run_plan(plan: Plan, results: Results, reports: Path, console: Console, *, command: str, how: How) -> int:
    """Run the missing trials of a plan, then write and print its report.

    Args:
        plan: a checked grid.
        results: where trials leave their records.
        reports: where the report's folder goes.
        console: where to write.
        command: how to do this again, for the report.
        how: where and how.

    Returns:
        The exit code: 0, 1 if a trial failed or was kept from ending, 130 if the user stopped it.
    """
    code = 0
    for source in (plan.workload.teacher, plan.workload.student):
        if source is not None and source.trust_remote_code:
            console.print(f"Executing code that comes with model {source.path} (trust_remote_code).", markup=False)
    settle(plan, results, console, how)
    if plan.todo:
        prepare_plan(plan, results, console, spread=_spreading(plan, results, console, how))
    write_plan(plan, results, command)
    if not plan.todo:
        console.print(f"All {len(plan.trials)} trials of {plan.grid.name} are finished; nothing to run.")
    else:
        outcome = _schedule(plan, results, console, how)
        if outcome.pending:
            return _INTERRUPTED
        code = 1 if outcome.failed else 0
    report = write_report(results.root, plan.grid.name, reports)
    print_report(report, console)
    return code


def settle(plan: Plan, results: Results, console: Console, how: How) -> None:
    """Look at what an earlier run left of the trials to run, before anything is started.

    A checkpoint that is whole stays, and its trial goes on from it.

    Raises:
        UserError: a checkpoint is damaged and nobody asked to rebuild; or another process runs the trial.
    """
    trash, moved, kept = Trash(results=results, folder=results.trash(plan.grid.name)), 0, 0
    for trial in plan.todo:
        # Whatever a trial has that is not to be gone on from: a finished record that is to be made again, or damage.
        over = how.fresh or is_whole_or_damaged(results, trial.id)
        if not over:
            try:
                wanted = conditions(trial, how.options)
                kept += check(results, trial.id, wanted) is not None
            except StaleError as error:
                console.print(f"{trial.name} starts over: {error}.", highlight=False, markup=False, soft_wrap=True)
                over = True
            except UserError:
                if not how.rebuild:
                    raise
                over = True
        moved += over and trash.take(trial, record=True)
        if over:
            results.withdraw(results.checkpoints(trial.id))
    if kept:
        console.print(f"{kept} trials go on from their checkpoints.", highlight=False)
    if moved:
        console.print(f"What was left of {moved} trials is now in {trash.folder}.", highlight=False, soft_wrap=True)


def whole_command(plan: Plan, results: Results) -> str:
    """Return what makes a report again: the command as typed, without what chose a part where nothing is missing.

    The report shows all trials that have a record, whichever command made them.
    """
    missing = {trial.id for trial in plan.trials if not results.record(trial.id).exists()}
    return command_line(without=_OF_A_PART if missing <= {trial.id for trial in plan.todo} else None)


def write_plan(plan: Plan, results: Results, command: str) -> None:
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
    write_manifest(results, manifest)


def _spreading(plan: Plan, results: Results, console: Console, how: How) -> Callable[[Part], Spread] | None:
    _choose_interface(how)
    from harness.run.builders import spreading

    return spreading(
        plan.workload,
        results,
        address=how.address,
        said=partial(console.print, highlight=False, markup=False, soft_wrap=True),
    )


def _choose_interface(how: How) -> None:
    if how.address is not None:
        # Read when Ray is imported: a machine of a cluster is reached by its address, not over the loopback interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")


def _schedule(plan: Plan, results: Results, console: Console, how: How) -> Outcome:
    _choose_interface(how)
    from harness.run.schedule import run_trials
    from harness.run.tracking import Board, make_loggers

    skipped = len(plan.trials) - len(plan.todo)
    finished = f", {skipped} are finished already" if skipped else ""
    console.print(f"{plan.grid.name}: {len(plan.todo)} trials to run{finished}. Starting workers.")
    progress = Progress(console=console, total=len(plan.todo))
    watchers: tuple[Watcher, ...] = (progress,)
    if "tensorboard" in how.trackers:
        watchers += (Board(results.tensorboard(plan.grid.name), results, progress.said),)
    with progress.shown():
        outcome = run_trials(
            plan.todo,
            results,
            Watchers(watchers),
            options=how.options,
            address=how.address,
            loggers=partial(make_loggers, how.trackers, plan.grid.name),
        )
    console.print(
        f"Trials: {len(outcome.finished)} finished, {len(outcome.failed)} failed, {len(outcome.pending)} not run.",
        highlight=False,
    )
    return outcome
