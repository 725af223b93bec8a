"""`harness run --tune`: tuning trials on validation, then each row at its own choice and at the common settings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.analysis.metrics import describe
from harness.config import Grid
from harness.config.errors import UserError
from harness.config.overrides import describe_value
from harness.config.tune import Tune
from harness.records.layout import Results
from harness.records.record import ManifestEntry, Tuning, TuningTrial
from harness.records.store import finished, read_record
from harness.run.options import Options
from harness.run.plan import Plan, print_plan, unique
from harness.run.run import run_plan

# Plans a grid, changed by a function.
Ask = Callable[..., Plan]


def run_tuned(ask: Ask, results: Results, reports: Path, console: Console, *, command: str, options: Options) -> int:
    """Tune each row that trains of a grid, then run and report all rows at their own choices.

    Args:
        ask: plans the grid; given `change`, as that function changes it.
        results: where trials leave their records.
        reports: where the reports of the tuning trials and of the tuned grid go.
        console: where to write.
        command: how to do this again, for the report.
        options: where and how trials run.

    Returns:
        The exit code, as of `run_plan`.
    """
    common, trying = plans(ask)
    code = run_plan(trying, results, reports, console, command=command, options=options)
    if code not in (0, 1):
        return code
    tuning = choose(common, trying, results)
    own = ask(change=lambda grid: tuned(grid, tuning.chosen))
    trials = unique((*own.trials, *common.trials))
    todo = {trial.id for trial in (*own.todo, *common.todo)}
    whole = replace(
        own, trials=trials, chosen=trials, todo=tuple(each for each in trials if each.id in todo), tuning=tuning
    )
    return max(code, run_plan(whole, results, reports, console, command=command, options=options))


def print_tuned(ask: Ask, results: Results, console: Console) -> None:
    """Print the tuning trials, and what may come after them."""
    common, trying = plans(ask)
    print_plan(console, trying, results)
    num = sum(trial.strategy.train for trial in common.trials)
    console.print(
        f"After these, {len(common.trials)} trials of {common.grid.name} at the common settings and at most {num} at "
        "the rows' own."
    )


def plans(ask: Ask) -> tuple[Plan, Plan]:
    """Plan a grid as it is, and its tuning trials.

    Raises:
        UserError: the grid has no `tune`, or its seeds are among those that are reported; as `make_plan`.
    """
    common, trying = ask(), ask(change=_tried)
    tune = _tune_of(common.grid)
    shared = sorted(set(tune.seeds) & {trial.seed for trial in common.trials})
    if shared:
        raise UserError(f"{common.grid.name}: tune.seeds has {shared[0]}, which is reported too: tune on other seeds")
    return common, trying


def choose(common: Plan, trying: Plan, results: Results) -> Tuning:
    """Choose each row's draw by its mean over the tuning seeds; of equals the first, none where all diverged."""
    tune = _tune_of(common.grid)
    sign = -1.0 if describe(tune.choose).direction == "higher" else 1.0
    draws, means = tune.draws(), dict[str, list[float]]()
    trials, ids = [], {(label, trial.seed): trial.id for label, trial in trying.rows}
    for strategy in common.grid.strategies:
        if not strategy.train:
            continue
        for number, settings in enumerate(draws):
            costs = []
            for seed in tune.seeds:
                trial_id = ids[_named(strategy.label, settings), seed]
                trials.append(
                    TuningTrial(label=strategy.label, draw=number, settings=settings, trial_id=trial_id, seed=seed)
                )
                costs.append(sign * _value(results, trial_id, tune.choose))
            mean = sum(costs) / len(costs)
            means.setdefault(strategy.label, []).append(mean if math.isfinite(mean) else math.inf)
    chosen = {label: draws[each.index(min(each))] if math.isfinite(min(each)) else {} for label, each in means.items()}
    entries = (ManifestEntry(trial_id=trial.id, label=label, seed=trial.seed) for label, trial in common.rows)
    return Tuning(
        metric=tune.choose,
        split=trying.grid.split,
        seeds=tune.seeds,
        trials=tuple(trials),
        chosen=chosen,
        common=tuple(entries),
    )


def _tried(grid: Grid) -> Grid:
    """Return the grid of tuning trials: each row that trains, at every draw."""
    tune = _tune_of(grid)
    rows = [
        (strategy.model_copy(update={"label": _named(strategy.label, settings)}), strategy.label, settings)
        for strategy in grid.strategies
        if strategy.train
        for settings in tune.draws()
    ]
    for _, label, settings in rows:
        if set(settings) & set(grid.overrides.get(label, {})):
            path = min(set(settings) & set(grid.overrides[label]))
            raise UserError(f"{grid.name}: {label!r} sets {path} itself, so it cannot be tuned over it")
    return grid.model_copy(
        update={
            "name": f"{grid.name}-tuning",
            "split": "validation",
            "seeds": tune.seeds,
            "baseline": None,
            "claims": (),
            "strategies": tuple(strategy for strategy, _, _ in rows),
            "overrides": {
                strategy.label: {**grid.overrides.get(label, {}), **settings} for strategy, label, settings in rows
            },
        }
    )


def tuned(grid: Grid, chosen: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return a grid whose rows have their own choices."""
    overrides = {label: {**grid.overrides.get(label, {}), **settings} for label, settings in chosen.items()}
    return grid.model_copy(
        update={"name": f"{grid.name}-tuned", "overrides": {key: each for key, each in overrides.items() if each}}
    )


def _tune_of(grid: Grid) -> Tune:
    if grid.tune is None:
        raise UserError(
            f"--tune: {grid.name} has no `tune`, which says over what, with how many trials and which seeds"
        )
    return grid.tune


def _named(label: str, settings: Mapping[str, float]) -> str:
    """Name a row at a draw."""
    parts = (f"{path.rpartition('.')[2].replace('_', ' ')} {describe_value(each)}" for path, each in settings.items())
    return ", ".join([label, *parts])


def _value(results: Results, trial_id: str, metric: str) -> float:
    if not finished(results, trial_id):
        return math.nan
    measured = read_record(results.record(trial_id)).metrics.get(metric)
    return math.nan if measured is None else measured.value
