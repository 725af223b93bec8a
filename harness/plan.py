"""What a grid would do and what it would cost, before anything is trained."""

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.config import Grid, Workload
from harness.distill.objective import compile_strategy
from harness.distill.probe import probe
from harness.distill.step import Tally
from harness.distill.train import count_steps
from harness.errors import UserError
from harness.grid import load_grid
from harness.legality import check_vocabulary
from harness.meter import count_flops, count_trunk_flops
from harness.models import load_tokenizer, shape_model
from harness.results import finished, read_record, trial_folder
from harness.trial import Trial, make_trials, only
from harness.workload import fingerprints, load_workload
from strategies.registry import SIGNALS, STUDENT_INPUTS, raw_inputs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked grid and its trials.

    Attributes:
        grid: the grid.
        workload: the workload it runs on.
        trials: every trial of the grid, in its order, each id once.
        todo: those without a finished record.
        rows: label and trial of every row and seed; labels that compute the same share a trial.
    """

    grid: Grid
    workload: Workload
    trials: tuple[Trial, ...]
    todo: tuple[Trial, ...]
    rows: tuple[tuple[str, Trial], ...]

    @property
    def needs_train_cache(self) -> bool:
        """Whether a trial to run trains from the teacher's cached states."""
        return any(reads_cache(trial) for trial in self.todo)


def make_plan(
    path: Path,
    results: Path,
    *,
    workload: str | None = None,
    seeds: tuple[int, ...] | None = None,
    labels: tuple[str, ...] = (),
    force: bool = False,
) -> Plan:
    """Read and check a grid and everything it names, and find out which trials are missing.

    Args:
        path: the grid file.
        results: the results root.
        workload: instead of the grid's.
        seeds: instead of the grid's or the workload's.
        labels: only the strategies whose label begins like one of these.
        force: run finished trials again.

    Raises:
        UserError: anything that would go wrong later: a wrong file, an impossible combination, a missing model, a
            broken plug-in.
        UnknownNameError: a name nobody registered.
    """
    grid = load_grid(path)
    loaded = load_workload(workload or grid.workload)
    for strategy in grid.strategies:
        if strategy.train:
            probe(strategy)
    found = fingerprints(loaded)
    _check_batches(loaded)
    vocab_size = len(load_tokenizer(loaded.student, loaded.folder))
    for strategy in grid.strategies:
        check_vocabulary(strategy, vocab_size)
    trials = make_trials(grid, loaded, found, seeds=seeds)
    if labels:
        trials = only(trials, labels)
    unique = tuple({trial.id: trial for trial in trials}.values())
    todo = tuple(trial for trial in unique if force or not finished(results, trial.id))
    rows = tuple((trial.strategy.label, trial) for trial in trials)
    return Plan(grid=grid, workload=loaded, trials=unique, todo=todo, rows=rows)


def reads_cache(trial: Trial) -> bool:
    """Tell whether a trial trains from the teacher's cached hidden states."""
    if not trial.strategy.train or trial.strategy.teacher != "cached":
        return False
    return compile_strategy(trial.strategy).reads_teacher


def predict_flops(trial: Trial) -> dict[str, float]:
    """Predict a trial's floating-point operations by part, from shapes alone.

    Every position but the last of a sequence is taken as valid, so separators make it a slight overestimate.
    """
    if not trial.strategy.train:
        return {}
    workload = trial.workload
    objective = compile_strategy(trial.strategy)
    length, size = workload.data.sequence_length, workload.optimisation.batch_size
    sequences = count_steps(workload.data.train_tokens // length, workload.optimisation) * size
    valid = sequences * (length - 1)
    position = trial.strategy.position
    budget = position.budget if position is not None and position.budget is not None else 1.0
    supervised = sequences * min(length - 1, math.ceil((length - 1) * budget - 1e-6))
    if trial.strategy.flow == "dense":
        supervised = sequences * length
    reads_student = any(raw_inputs(SIGNALS[name]) & STUDENT_INPUTS for name in objective.scored)
    twice = objective.batch_scope and size > workload.optimisation.micro_batch_size
    tally = Tally(
        sequences=sequences,
        valid=valid,
        supervised=supervised,
        student_scored=valid if reads_student else 0,
        student_trained=supervised,
        teacher_rows=valid * objective.scores_read_teacher + supervised * objective.loss_reads_teacher,
        trunk_passes=sequences if twice else 0,
        teacher_passes=sequences * (1 + twice) * (objective.reads_teacher and trial.strategy.teacher == "online"),
    )
    vocab = len(load_tokenizer(workload.student, workload.folder))
    student = shape_model(workload.student, workload.folder)
    teacher = shape_model(workload.teacher, workload.folder) if workload.teacher and objective.reads_teacher else None
    return count_flops(
        tally,
        student_trunk=count_trunk_flops(student, length),
        teacher_trunk=count_trunk_flops(teacher, length) if teacher is not None and tally.teacher_passes else 0.0,
        student_head=vocab * int(student.config.hidden_size),
        teacher_head=vocab * int(teacher.config.hidden_size) if teacher is not None else 0,
    )


def print_plan(console: Console, plan: Plan, results: Path) -> None:
    """Print one line per row: trials finished and to run, FLOPs per trial, seconds seen so far."""
    table = Table(title=f"{plan.grid.name} on {plan.workload.name}", title_justify="left")
    table.add_column("strategy")
    for heading in ("to run", "finished", "GFLOP per trial", "s per trial"):
        table.add_column(heading, justify="right")
    todo = {trial.id for trial in plan.todo}
    total = 0.0
    for label in dict.fromkeys(label for label, _ in plan.rows):
        trials = [trial for name, trial in plan.rows if name == label]
        missing = [trial for trial in trials if trial.id in todo]
        flops = sum(predict_flops(trials[0]).values())
        total += flops * len(missing)
        seconds = [seen for trial in trials if (seen := _seconds(results, trial)) is not None]
        shown = f"{sum(seconds) / len(seconds):.0f}" if seconds else "-"
        table.add_row(label, str(len(missing)), str(len(trials) - len(missing)), f"{flops / 1e9:.1f}", shown)
    console.print(table)
    console.print(
        f"{len(plan.todo)} of {len(plan.trials)} trials to run, {total / 1e9:.0f} GFLOP of training in all"
        + ("; the teacher runs once over the training text unless its cache exists" if plan.needs_train_cache else "")
    )


def _seconds(results: Path, trial: Trial) -> float | None:
    if not finished(results, trial.id):
        return None
    return sum(read_record(trial_folder(results, trial.id) / "record.json").cost.wall_s.values())


def _check_batches(workload: Workload) -> None:
    try:
        count_steps(workload.data.train_tokens // workload.data.sequence_length, workload.optimisation)
    except ValueError as error:
        raise UserError(f"workload {workload.name!r}: {error}") from None
