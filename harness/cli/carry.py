"""What `harness run` comes to once its options are read: a plan shown, a grid run, or a grid tuned and run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.cli.shared import command_line
from harness.config.errors import UserError
from harness.records.layout import Results

if TYPE_CHECKING:
    from harness.run.options import Options
    from harness.run.plan import Plan

# Options of `harness run` that choose what is run, with whether a value follows.
_OF_A_PART = {"--only": True, "--seeds": True, "--force": False, "--fresh": False, "--rebuild": False}


def check_whole(*, tune: bool, only: Sequence[str] | None, seeds: str | None, decide: int | None) -> None:
    """Refuse `--tune` beside what chooses a part of a grid.

    Raises:
        UserError: they are given together.
    """
    if tune and (only or seeds is not None or decide is not None):
        raise UserError("--tune tunes and runs every row and seed of a grid: leave out --only, --seeds and --decide")


def carry_out(
    ask: "Callable[..., Plan]",
    place: Results,
    reports: Path,
    console: Console,
    options: "Options",
    *,
    tune: bool,
    dry_run: bool,
) -> int:
    """Run what a plan has to run, or show it; return the exit code."""
    from harness.run.plan import print_plan
    from harness.run.run import print_mirror_status, run_plan
    from harness.run.tune import print_tuned, run_tuned

    if tune:
        if not dry_run:
            return run_tuned(ask, place, reports, console, command=command_line(), options=options)
        print_tuned(ask, place, console)
        return 0
    plan = ask()
    if not dry_run:
        return run_plan(plan, place, reports, console, command=_whole_command(plan, place), options=options)
    print_plan(console, plan, place)
    print_mirror_status(plan, place, console)
    return 0


def _whole_command(plan: "Plan", results: Results) -> str:
    """Return what makes a report again: the command as typed, without what chose a part where nothing is missing.

    The report shows all trials that have a record, whichever command made them.
    """
    missing = {trial.id for trial in plan.trials if not results.record(trial.id).exists()}
    return command_line(without=_OF_A_PART if missing <= {trial.id for trial in plan.todo} else None)
