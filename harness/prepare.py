"""What trials share, prepared before they start, with a progress bar for each part."""

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from harness.config import Split, Workload
from harness.errors import UserError
from harness.files import read_yaml
from harness.inputs import prepare_inputs
from harness.plan import make_plan, reads_cache
from harness.workload import fingerprints, load_workload


def prepare_shared(
    workload: Workload,
    found: Mapping[str, str],
    split: Split,
    results: Path,
    console: Console,
    *,
    needs_train_cache: bool,
) -> None:
    """Build a workload's shared inputs with all cores, before workers share them out.

    Args:
        workload: the workload.
        found: its fingerprints.
        split: the reported split.
        results: the results root.
        console: where to show progress.
        needs_train_cache: whether a trial trains from the teacher's hidden states.
    """
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)  # type: ignore[arg-type]

        prepare_inputs(
            workload, found, split, cache=results / "cache", needs_train_cache=needs_train_cache, on_progress=show
        )


def build_caches(what: str, results: Path, console: Console) -> None:
    """Build the teacher caches that a grid's trials read, or all that a workload's trials could.

    Args:
        what: a grid file, a workload file, or the name of a built-in workload.
        results: the results root.
        console: where to show progress.

    Raises:
        UserError: the file is wrong, or the workload has no teacher.
        UnknownNameError: no built-in workload of this name; suggests the nearest.
    """
    if what.endswith((".yaml", ".yml")) and "strategies" in read_yaml(Path(what)):
        plan = make_plan(Path(what), results)
        workload = plan.workload
        splits: tuple[Split, ...] = (plan.grid.split,)
        needed = any(reads_cache(trial) for trial in plan.trials)
    else:
        workload, splits, needed = load_workload(what), ("validation", "test"), True
    if workload.teacher is None:
        raise UserError(f"workload {workload.name!r} has no teacher, so there is nothing to cache")
    found = fingerprints(workload)
    for split in splits:
        prepare_shared(workload, found, split, results, console, needs_train_cache=needed)
