"""What an earlier run left of the trials to run: gone on from where it is whole, moved aside where it is not."""

from pathlib import Path

from rich.console import Console

from harness.config.errors import UserError
from harness.distill.state import StaleError
from harness.records import lock
from harness.records.layout import Results
from harness.records.store import is_whole_or_damaged
from harness.run.attempt import conditions, lock_name
from harness.run.options import Options
from harness.run.plan import Plan
from harness.trial.checkpoint import check
from harness.trial.trial import Trial

_SECONDS_FOR_A_LOCK = 1.0


def resolve_leftovers(plan: Plan, results: Results, console: Console, options: Options) -> None:
    """Look at records and checkpoints that an earlier run left of the trials to run, before anything is started.

    A checkpoint that is whole stays, and its trial goes on from it; what is started over moves to the trash. Whether it
    is of this machine is for the worker to say: this one may have no GPU.

    Raises:
        UserError: a checkpoint is damaged and nobody asked to rebuild; or another process runs the trial.
    """
    trash, num_moved, num_kept = results.trash(plan.grid.name), 0, 0
    for trial in plan.todo:
        # Started over: a finished record that is to be made again, or damage.
        over = options.fresh or is_whole_or_damaged(results, trial.id)
        if not over:
            try:
                step = check(results, trial.id, conditions(trial, options))
                num_kept += step is not None
            except StaleError as error:
                console.print(f"{trial.name} starts over: {error}.", highlight=False, markup=False, soft_wrap=True)
                over = True
            except UserError:
                if not options.rebuild:
                    raise
                over = True
        if over:
            num_moved += _move(trial, results, trash)
            results.withdraw(results.checkpoints(trial.id))
    if num_kept:
        console.print(f"{num_kept} trials go on from their checkpoints.", highlight=False)
    if num_moved:
        console.print(f"What was left of {num_moved} trials is now in {trash}.", highlight=False, soft_wrap=True)


def _move(trial: Trial, results: Results, trash: Path) -> bool:
    """Move a trial's checkpoints, record and tables to the trash; tell whether there was anything.

    Raises:
        UserError: another process runs the trial, or it cannot be moved.
    """
    folders = (results.checkpoints(trial.id), results.trial(trial.id))
    if not any(folder.exists() for folder in folders):
        return False
    try:
        with lock.held(results.locks, lock_name(trial.id), doing="moved", timeout_s=_SECONDS_FOR_A_LOCK):
            for folder in filter(Path.exists, folders):
                target = trash / folder.relative_to(results.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
    except lock.LockedError as error:
        raise UserError(f"{trial.name} ({trial.id}) cannot be started over: it is {error}") from None
    except OSError as error:
        raise UserError(f"{error.filename} cannot be moved to {trash}: {error.strerror}") from None
    return True
