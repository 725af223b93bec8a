"""What trials share, prepared before they start, with a progress bar for each part."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from harness.config import Choice, Split, Workload
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.config.yaml import read_yaml
from harness.evaluate.evaluation import prepare_items
from harness.models import DTYPES, load_model, load_tokenizer
from harness.records.layout import Results
from harness.run.plan import Plan, make_plan, reads_cache
from harness.run.watchers import SECONDS_BETWEEN_LINES, time_left
from harness.teacher.inputs import Inputs, prepare_inputs, prepare_tokens, teacher_source
from harness.teacher.kind import Kind
from harness.teacher.kinds.rows import RowTeacher
from harness.teacher.kinds.scores import SignalScores
from harness.teacher.live import provide_rows
from harness.teacher.provide import Progress, Spread
from harness.teacher.targets import targets_of
from harness.trial.identity import fingerprints
from harness.trial.samples import choose_samples, scored_by
from harness.trial.trial import Trial


def prepare_plan(plan: Plan, results: Results, console: Console, *, spread: Spread | None = None) -> None:
    """Build what a plan's missing trials read, with all cores, before workers share them out.

    Args:
        plan: a checked grid, with a trial to run.
        results: where it is kept.
        console: where to show progress.
        spread: lets other processes compute: `harness.run.builders.spreading`.
    """
    digests = plan.todo[0].fingerprints
    with shown(console) as show:
        inputs = _prepare_inputs(
            plan.workload, digests, plan.grid.split, results, show, train=plan.needs_train_cache, spread=spread
        )
        _prepare_rows(plan.todo, inputs, results, show, spread)


def build_caches(what: str, results: Results, console: Console) -> None:
    """Build the teacher caches that a grid's trials read, or all that a workload's trials could.

    Args:
        what: a grid file, a workload file, or the name of a built-in workload.
        results: where it is kept.
        console: where to show progress.

    Raises:
        UserError: the file is wrong, or the workload has no teacher.
        UnknownNameError: no built-in workload of this name; suggests the nearest.
    """
    if what.endswith((".yaml", ".yml")) and "strategies" in read_yaml(Path(what)):
        plan = make_plan(Path(what), results)
        workload = plan.workload
        splits: tuple[Split, ...] = (plan.grid.split,)
        train = any(reads_cache(trial) for trial in plan.trials)
    else:
        workload, splits, train = load_workload(what, results.models), ("validation", "test"), True
    if workload.teacher is None:
        raise UserError(f"workload {workload.name!r} has no teacher, so there is nothing to cache")
    digests = fingerprints(workload, results)
    with ExitStack() as stack:
        spread = None
        if workload.resources.gpus > 0:
            from harness.run.builders import spreading

            message = partial(console.print, highlight=False, markup=False, soft_wrap=True)
            spread = stack.enter_context(spreading(workload, results, address=None, message=message))
        for split in splits:
            with shown(console) as show:
                _prepare_inputs(workload, digests, split, results, show, train=train, spread=spread)


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """Show a progress bar for each thing that is built; without a terminal, a line a minute."""
    if not console.is_terminal:
        yield lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield show


def lines(console: Console) -> Progress:
    """Return what says every minute how far a thing is that is built."""
    first, said = dict[str, tuple[float, int]](), time.monotonic()

    def show(name: str, done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        began, before = first.setdefault(name, (now, done))
        if now - said >= SECONDS_BETWEEN_LINES and done > before:
            said, left = now, (now - began) / (done - before) * (total - done)
            console.print(f"{name}: {done} of {total}{time_left(left)}", highlight=False, markup=False, soft_wrap=True)

    return show


def _prepare_inputs(
    workload: Workload,
    digests: Mapping[str, str],
    split: Split,
    results: Results,
    show: Progress,
    *,
    train: bool,
    spread: Spread | None = None,
) -> Inputs:
    """Build tokens, items and the teacher's hidden states; those of the training text only if `train`."""
    torch.set_num_threads(os.cpu_count() or 1)
    _check_models(workload, results)
    tokenizer = load_tokenizer(workload.student, workload.folder)
    prepare_tokens(
        workload, digests, split, tokenizer, results=results
    )  # reads data that may be bad, so it writes first
    prepare_items(workload.evaluation, workload.folder, split, results)
    return prepare_inputs(
        workload, digests, split, results=results, needs_train_cache=train, on_progress=show, spread=spread
    )


def _check_models(workload: Workload, results: Results) -> None:
    """Load what trials will load, before anything is written.

    The teacher too, unless there are caches that one has built.
    """
    teacher = None if any(results.cache.glob("hidden-*")) else workload.teacher
    for source in (workload.student, teacher):
        if source is not None:
            load_model(source, workload.folder, dtype=DTYPES[workload.resources.dtype])


def _prepare_rows(
    trials: Sequence[Trial], inputs: Inputs, results: Results, show: Progress, spread: Spread | None
) -> None:
    """Score the sequences that trials choose from, and store what each reads of the teacher's rows of its choice."""
    broken = list[Choice | None]()
    # What is stored of all sequences serves those who choose some.
    for trial in sorted(trials, key=lambda trial: trial.strategy.samples is not None):
        signal, kept = scored_by(trial.strategy), None
        if not trial.strategy.train or signal in broken:
            continue
        if trial.strategy.samples is not None:
            try:
                kept = choose_samples(trial, inputs.train, results=results, on_progress=show, spread=spread).kept
            except FloatingPointError:
                # A model that gives no numbers is for its trials to report: each leaves a record of its failure.
                broken.append(signal)
                continue
        source = teacher_source(trial.workload, trial.fingerprints, inputs.train, data="train", only=kept)
        kinds: list[Kind[RowTeacher, Any]] = [SignalScores(signal=name) for name in trial.objective.stored_scores]
        if trial.strategy.stored:
            kinds.append(targets_of(trial.method, inputs.vocab_size))
        for kind in kinds:
            provide_rows(kind, trial.workload, source, results=results, on_progress=show, spread=spread)
