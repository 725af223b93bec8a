"""What a grid would do and what it would cost, before anything is trained."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.config import Diagnostics, Grid, Workload
from harness.config.errors import UserError
from harness.config.expand import load_grid, taught, with_further_seeds
from harness.config.legality import Facts, check_diagnostics
from harness.config.overrides import NOTHING, Overrides
from harness.config.workloads import load_workloads
from harness.data.documents.corpus import other_versions
from harness.distill.probe import probe, probe_shadows
from harness.evaluate.evaluation import SPLITS, check_split
from harness.models import layers_of
from harness.models.shapes import num_layers, shape_model
from harness.models.vocabulary import num_tokens
from harness.records.layout import Results
from harness.records.record import Manifest, ManifestEntry, SecondLook, Tuning
from harness.records.store import finished, is_whole, read_record
from harness.trial.flops import predict_flops
from harness.trial.identity import fingerprints
from harness.trial.samples import prepass_reads_cache
from harness.trial.trial import Trial, make_trials, only, shows_enough

# Rows of a plan that a person would read.
_MOST_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked grid and its trials.

    Attributes:
        grid: the grid.
        workload: the workload it runs on.
        trials: every trial of the grid, in its order, each id once.
        chosen: those that are asked for.
        todo: those to run: chosen, and without a finished record that has the diagnostics the grid asks for.
        rows: label and trial of every row and seed; labels that compute the same share a trial.
        second_look: the seeds that undecided rows may get beyond these; None if they may have none.
        tuning: how the rows' own settings were chosen; None where all have the workload's.
        further: label and trial of every row that trains and each of those seeds.
        further_todo: those of them, by id, that would have to be run.
    """

    grid: Grid
    workload: Workload
    trials: tuple[Trial, ...]
    chosen: tuple[Trial, ...]
    todo: tuple[Trial, ...]
    rows: tuple[tuple[str, Trial], ...]
    second_look: SecondLook | None = None
    tuning: Tuning | None = None
    further: tuple[tuple[str, Trial], ...] = ()
    further_todo: frozenset[str] = frozenset()

    def manifest(self, command: str) -> Manifest:
        """Say which trials the grid consists of, and by which command."""
        grid, labels = self.grid, {label for label, _ in self.rows}
        return Manifest(
            grid=grid.name,
            hypothesis=grid.hypothesis,
            workload=self.workload.name,
            baseline=grid.baseline if grid.baseline in labels else None,
            split=grid.split,
            command=command,
            margin=grid.margin,
            claims=tuple(claim for claim in grid.claims if set(claim.rows) <= labels),
            second_look=self.second_look,
            tuning=self.tuning,
            trials=tuple(ManifestEntry(trial_id=trial.id, label=label, seed=trial.seed) for label, trial in self.rows),
        )

    @property
    def needs_train_cache(self) -> bool:
        """Whether a trial to run trains from the teacher's cached states."""
        return any(reads_cache(trial) for trial in self.todo)

    @property
    def state(self) -> str:
        """How many trials are to run, are finished and are not chosen, in words."""
        num_finished, num_left_out = len(self.chosen) - len(self.todo), len(self.trials) - len(self.chosen)
        left_out = f", {num_left_out} not chosen" if num_left_out else ""
        if not self.todo:
            return f"All {num_finished} {'chosen ' * bool(left_out)}trials of {self.grid.name} are finished{left_out}"
        finished = f", {num_finished} finished already" if num_finished else ""
        return f"{self.grid.name}: {len(self.todo)} trials to run{finished}{left_out}"


def make_plan(
    path: Path,
    results: Results,
    *,
    workload: str | None = None,
    overrides: Overrides = NOTHING,
    split: str | None = None,
    seeds: tuple[int, ...] | None = None,
    labels: tuple[str, ...] = (),
    sample: int | None = None,
    diagnostics: int | None = None,
    teacher: str | None = None,
    decide: int | None = None,
    cpu: bool = False,
    force: bool = False,
    rebuild: bool = False,
    admit: Callable[[Sequence[Trial]], None] | None = None,
    change: Callable[[Grid], Grid] = lambda grid: grid,
) -> Plan:
    """Read and check a grid and everything it names, and find out which trials are missing.

    Args:
        path: the grid file.
        results: where finished trials are looked for.
        workload: instead of the grid's.
        overrides: what stands in the workload instead, by dotted path; what a row says stands over it.
        split: report on `validation` or `test` instead of the grid's split.
        seeds: run only these of the grid's seeds.
        labels: run only the strategies whose label begins like one of these.
        sample: keep only this many of the grid's strategies, besides those that train nothing and the baseline; drawn
            without replacement, the same ones every time.
        diagnostics: look at every so many steps while training, instead of what the grid says.
        teacher: `online` for every strategy that would read the teacher's cached states.
        decide: let rows that are undecided after the grid's seeds have more, up to so many in all.
        cpu: ask for no GPU.
        force: run finished trials again.
        rebuild: run trials again whose record is damaged; without it they are refused.
        admit: refuses trials that could not end. It is asked once: before what a workload names is looked for, which
            may have to be fetched; or of the missing trials alone, where the folder has some that ran.
        change: changes the grid before it meets its workload.

    Raises:
        UserError: anything that would go wrong later: a wrong file, an impossible combination, a missing model, a
            broken plug-in.
        UnknownNameError: a name nobody registered.
    """
    grid = change(_question(path, split, sample, diagnostics, teacher))
    grid, loaded, own = _on_workload(grid, workload, overrides, results.models, cpu=cpu)
    grid, more = with_further_seeds(grid, loaded, decide, part=bool(labels or seeds))
    probe(*(strategy for strategy in grid.strategies if strategy.train))
    if grid.diagnostics is not None:
        check_diagnostics(loaded)
        probe_shadows()
    new = not results.trials.exists()
    if admit is not None and new:
        admit(only(make_trials(grid, loaded, {}, own=own), labels=labels, seeds=seeds))
    digests = fingerprints(loaded, results)
    _check_models(grid, loaded, own)
    trials = make_trials(grid, loaded, digests, _facts(grid, loaded), own=own)
    again = make_trials(grid.model_copy(update={"seeds": more}), loaded, digests, own=own) if more else []
    wanted = {trial.id for trial in only(trials, labels=labels, seeds=seeds)}
    chosen = tuple(trial for trial in unique(trials) if trial.id in wanted)
    further = [trial for trial in again if trial.strategy.train]
    todo, further_todo = (
        tuple(trial for trial in some if force or not _done(results, trial, rebuild=rebuild))
        for some in (chosen, unique(further))
    )
    if admit is not None and not new:
        admit((*todo, *further_todo))
    return Plan(
        grid=grid,
        workload=loaded,
        trials=unique(trials),
        chosen=chosen,
        todo=todo,
        rows=tuple((trial.strategy.label, trial) for trial in trials),
        second_look=SecondLook(seeds=more) if more else None,
        further=tuple((trial.strategy.label, trial) for trial in further),
        further_todo=frozenset(trial.id for trial in further_todo),
    )


def unique(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Keep each trial once, as the first row has it: that one's name and source stand in the record."""
    first = dict[str, Trial]()
    for trial in trials:
        first.setdefault(trial.id, trial)
    return tuple(first.values())


def _check_models(grid: Grid, workload: Workload, own: Mapping[str, Workload]) -> None:
    """Refuse a split that the workload's tasks do not have, and what its student cannot do."""
    check_split(workload.evaluation, grid.split, workload.folder)
    for lora in {each.lora for each in (workload, *own.values())} - {None}:
        shape_model(workload.student, workload.folder, lora=lora)  # refuses layers that the student does not have
    if workload.resources.shard_student:
        layers_of(shape_model(workload.student, workload.folder))  # refuses a student that does not name its layers


def _on_workload(
    grid: Grid, workload: str | None, overrides: Overrides, models: Path, *, cpu: bool
) -> tuple[Grid, Workload, Mapping[str, Workload]]:
    """Load a grid's workload and those of its rows, as the command line asks for them."""
    loaded, own = load_workloads(workload or grid.workload, models, grid, overrides)
    if cpu:
        gpus = {"gpus": 0.0, "teacher_gpus": 0}
        loaded, *others = (
            each.model_copy(update={"resources": each.resources.model_copy(update=gpus)})
            for each in (loaded, *own.values())
        )
        own = dict(zip(own, others, strict=True))
    if overrides or (workload is not None and workload != grid.workload):
        # Another question: its table must not replace the grid's own.
        grid = grid.model_copy(update={"name": f"{grid.name}-{loaded.name}"})
    return grid, loaded, own


def _question(path: Path, split: str | None, sample: int | None, diagnostics: int | None, teacher: str | None) -> Grid:
    """Read a grid, and change it as the command line asks."""
    grid = load_grid(path)
    if split is not None:
        grid = _reported_on(grid, split)
    if teacher is not None:
        changed = {"strategies": taught(grid.strategies, teacher), "name": f"{grid.name}-{teacher}"}
        grid = grid.model_copy(update=changed)
    if sample is not None:
        grid = _sampled(grid, sample)
    if diagnostics is not None:
        grid = _watched(grid, diagnostics)
    return grid


def _reported_on(grid: Grid, split: str) -> Grid:
    """Report on a split; where it is not the grid's own, the report gets a name of its own."""
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}; it takes {' or '.join(SPLITS)}")
    return grid if split == grid.split else grid.model_copy(update={"split": split, "name": f"{grid.name}-{split}"})


def _facts(grid: Grid, workload: Workload) -> Facts:
    """Ask the models what the rules about a grid's strategies need to know."""
    sources = {"student": workload.student, "teacher": workload.teacher}
    compared = any(strategy.feature is not None for strategy in grid.strategies)
    return Facts(
        vocab_size=num_tokens(workload.student, workload.folder),
        layers={
            name: num_layers(source, workload.folder)
            for name, source in sources.items()
            if compared and source is not None
        },
    )


def _watched(grid: Grid, every: int) -> Grid:
    if every < 1:
        raise UserError(f"--diagnostics is {every}; it takes a number of optimiser steps, at least 1")
    before = grid.diagnostics or Diagnostics(every=every)
    return grid.model_copy(update={"diagnostics": before.model_copy(update={"every": every})})


def _done(results: Results, trial: Trial, *, rebuild: bool) -> bool:
    """Tell whether nothing is left to run: a finished record, with the looks and sequences its grid asks for."""
    if not is_whole(results, trial.id, rebuild=rebuild):
        return False
    return shows_enough(trial, read_record(results.record(trial.id)).diagnostics)


def _sampled(grid: Grid, num: int) -> Grid:
    """Keep the rows a table needs and a random part of the others; the report gets a name of its own."""
    fixed = [strategy.label for strategy in grid.strategies if not strategy.train or strategy.label == grid.baseline]
    others = [strategy.label for strategy in grid.strategies if strategy.label not in fixed]
    if not 1 <= num <= len(others):
        raise UserError(f"--sample is {num}; {grid.name} has 1 to {len(others)} strategies to draw from")
    drawn = random.Random(f"{grid.name}/{num}").sample(others, num)  # noqa: S311 - not a secret
    kept = {*fixed, *drawn}
    chosen = tuple(strategy for strategy in grid.strategies if strategy.label in kept)
    return grid.model_copy(update={"strategies": chosen, "name": f"{grid.name}-sample-{num}"})


def reads_cache(trial: Trial) -> bool:
    """Tell whether a trial trains from the teacher's cached hidden states, or chooses its samples by them."""
    if not trial.strategy.train or trial.strategy.teacher != "cached":
        return False
    return trial.objective.reads_teacher or prepass_reads_cache(trial.strategy)


def print_plan(console: Console, plan: Plan, results: Results) -> None:
    """Print one line per row: trials to run, finished and not chosen, FLOPs per trial, seconds seen so far."""
    table = Table(title=f"{plan.grid.name} on {plan.workload.name}", title_justify="left")
    table.add_column("strategy")
    num_left_out = len(plan.trials) - len(plan.chosen)
    headings = ("to run", "finished", *(("not chosen",) if num_left_out else ()), "GFLOP per trial", "s per trial")
    for heading in headings:
        table.add_column(heading, justify="right")
    todo, chosen = {trial.id for trial in plan.todo}, {trial.id for trial in plan.chosen}
    total, by_label = 0.0, dict[str, list[Trial]]()
    for label, trial in plan.rows:
        by_label.setdefault(label, []).append(trial)
    for label, trials in by_label.items():
        num_missing = sum(trial.id in todo for trial in trials)
        num_chosen = sum(trial.id in chosen for trial in trials)
        flops = sum(predict_flops(trials[0]).values())
        total += flops * num_missing
        seconds = [spent for trial in trials if (spent := _seconds(results, trial)) is not None]
        counts = [num_missing, num_chosen - num_missing, *([len(trials) - num_chosen] if num_left_out else [])]
        mean_s = f"{sum(seconds) / len(seconds):.0f}" if seconds else "-"
        table.add_row(label, *map(str, counts), f"{flops / 1e9:.1f}", mean_s)
    if len(by_label) <= _MOST_ROWS:
        console.print(table)
    else:
        console.print(f"{plan.grid.name} on {plan.workload.name}: {len(by_label):,} strategies, too many to list.")
    console.print(
        f"{len(plan.todo)} of {len(plan.trials)} trials to run"
        + (f" ({num_left_out} not chosen)" if num_left_out else "")
        + f", {total / 1e9:,.0f} GFLOP of training in all"
        + ("; the teacher runs once over the training text unless its cache exists" if plan.needs_train_cache else "")
    )
    if plan.second_look is not None:
        most = [trial for trial in unique(trial for _, trial in plan.further) if trial.id in plan.further_todo]
        flops = sum(sum(predict_flops(trial).values()) for trial in most)
        console.print(
            f"After these, seeds {', '.join(map(str, plan.second_look.seeds))} for the baseline and the rows that are "
            f"undecided against it: at most {len(most)} trials more, {flops / 1e9:,.0f} GFLOP"
        )
    print_other_versions(plan, console)


def print_other_versions(plan: Plan, console: Console) -> None:
    """Say which packages' documents are of another version than the workload expects; records say it too."""
    others = other_versions(plan.workload.evaluation.packages)
    if others:
        console.print(f"Documents are of other versions than expected: {', '.join(others)}.", soft_wrap=True)


def _seconds(results: Results, trial: Trial) -> float | None:
    if not finished(results, trial.id):
        return None
    return sum(read_record(results.record(trial.id)).cost.wall_s.values())
