"""A grid from plan to report: prepare what trials share, run what is missing, write the manifest and the report.

What trains, and Ray, is imported where there is something to run.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.config.arithmetic import set_arithmetic
from harness.records.layout import Results
from harness.records.store import write_manifest
from harness.run.decide import stages
from harness.run.options import Options
from harness.run.plan import Plan, print_other_versions
from harness.run.refresh import refresh_report

if TYPE_CHECKING:
    from harness.run.watchers import Endings

_INTERRUPTED = 130


def sync_mirror(results: Results, console: Console) -> None:
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


def print_mirror_status(plan: Plan, results: Results, console: Console) -> None:
    """Say how many of the trials to run a run would fetch from the results folder's mirror, if it has one.

    Raises:
        UserError: the mirror cannot be read.
    """
    if results.mirror is None:
        return
    copies = set(results.copies(results.trials))
    num = sum(trial.id in copies for trial in plan.todo)
    line = f"{results.mirror.uri} has {num} of the {len(plan.todo)} trials to run."
    console.print(line, highlight=False, markup=False)


def run_plan(plan: Plan, results: Results, reports: Path, console: Console, *, command: str, options: Options) -> int:
    """Run the missing trials of a plan, then write and print its report.

    Args:
        plan: a checked grid.
        results: where trials leave their records.
        reports: where the report's folder goes.
        console: where to write.
        command: how to do this again, for the report.
        options: where and how trials run.

    Returns:
        The exit code: 0, 1 if a trial failed or was kept from ending, 130 or 143 if it was stopped.
    """
    code = 0
    set_arithmetic(plan.workload.resources.arithmetic)
    for stage in stages(plan, results, console):
        if stage.todo:
            _prepare(stage, results, console, options)
        write_plan(stage, results, command)
        if not stage.todo:
            console.print(f"{stage.state}; nothing to run.", highlight=False, soft_wrap=True)
            continue
        outcome = _schedule(stage, results, console, options)
        if outcome.pending:
            return outcome.interrupted or _INTERRUPTED
        code = 1 if outcome.failed else code
    refresh_report(results, plan.grid.name, reports, console, pdf=options.pdf)
    return code


def run_missing(plan: Plan, results: Results, console: Console, options: Options) -> "Endings":
    """Run the missing trials of a plan, of which there is one at least; no manifest and no report is written."""
    set_arithmetic(plan.workload.resources.arithmetic)
    _prepare(plan, results, console, options)
    return _schedule(plan, results, console, options)


def write_plan(plan: Plan, results: Results, command: str) -> None:
    """Say which trials the grid consists of."""
    write_manifest(results, plan.manifest(command))


def _prepare(plan: Plan, results: Results, console: Console, options: Options) -> None:
    """Look at what an earlier run left, and build what the trials share."""
    if options.address is not None:
        # Read when Ray is imported: a cluster's machine is reached by its address, not over the loopback interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    from harness.models.devices import release_memory
    from harness.run.builders import spreading
    from harness.run.leftovers import resolve_leftovers
    from harness.run.needs import hours_on_cpu
    from harness.run.prepare import prepare_plan

    for source in (plan.workload.teacher, plan.workload.student):
        if source is not None and source.trust_remote_code:
            console.print(f"Executing code that comes with model {source.path} (trust_remote_code).", markup=False)
    print_other_versions(plan, console)
    if options.cpu and any(trial.strategy.train for trial in plan.todo):
        console.print(hours_on_cpu(plan.todo), highlight=False, soft_wrap=True)
    resolve_leftovers(plan, results, console, options)
    message = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with spreading(plan.workload, results, address=options.address, message=message) as spread:
        prepare_plan(plan, results, console, spread=spread)
    release_memory()


def _schedule(plan: Plan, results: Results, console: Console, options: Options) -> "Endings":
    from harness.run.schedule import run_trials
    from harness.run.watchers import Board, TerminalWatcher, Watcher, Watchers

    console.print(f"{plan.state}. Starting workers.", highlight=False, soft_wrap=True)
    progress = TerminalWatcher(console=console, total=len(plan.todo))
    watcher: Watcher = progress
    if "tensorboard" in options.trackers:
        watcher = Watchers(progress, Board(results.tensorboard(plan.grid.name), results, progress.message))
    with progress.shown():
        outcome = run_trials(plan, results, watcher, options)
    console.print(
        f"Trials: {len(outcome.finished)} finished, {len(outcome.failed)} failed, {len(outcome.pending)} not run.",
        highlight=False,
    )
    return outcome
