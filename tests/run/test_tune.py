"""Rows tuned with equal budgets: the same draws, own choices, a report of both; and what is refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.analysis.report import rebuild
from harness.config.errors import UserError
from harness.config.tune import Tune
from harness.records.layout import Results
from harness.records.store import read_manifest
from harness.run import run
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import Plan, make_plan
from harness.run.tune import plans, run_tuned
from harness.run.watchers import Endings

RATE = "optimisation.learning_rate"
TUNE = {"over": {RATE: {"log_uniform": [1e-4, 1e-2]}}, "trials": 3, "seeds": [11, 12]}


def run_here(plan: Plan, results: Results, console: Console, options: Options) -> Endings:
    """Run a plan's trials in this process, without Ray."""
    for trial in plan.todo:
        run_and_write(trial, results, options=options)
    return Endings(finished=tuple(trial.id for trial in plan.todo), failed={}, pending=(), interrupted=0)


def test_every_row_has_the_same_draws_and_is_reported_at_its_own_choice_and_at_the_common_rate(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = write_grid(["no_kd", "full_kd", "se_kd"], workload=str(workload_file), baseline="Full KD", tune=TUNE)
    results, reports = Results(tmp_path / "results"), tmp_path / "reports"
    monkeypatch.setattr(run, "_schedule", run_here)
    ask = partial(make_plan, grid, results)
    arguments: dict[str, Any] = {"command": f"harness run {grid} --tune", "options": Options()}
    assert run_tuned(ask, results, reports, Console(), **arguments) == 0
    manifest = read_manifest(results.manifest("question-tuned"))
    tuning = manifest.tuning
    assert tuning is not None
    by_row = {label: [t.settings[RATE] for t in tuning.trials if t.label == label] for label in tuning.chosen}
    assert by_row == {label: [1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2] for label in ("Full KD", "SE-KD 20%")}
    assert {trial.seed for trial in tuning.trials} == {11, 12}
    assert [entry.seed for entry in manifest.trials] == [None, 1, 2, 1, 2]
    # A row that chose the workload's own rate shares its trials with the common table.
    own, common = ({(e.label, e.seed): e.trial_id for e in each} for each in (manifest.trials, tuning.common))
    for label, settings in tuning.chosen.items():
        assert (own[label, 1] == common[label, 1]) == (settings[RATE] == 1e-3)
    report = reports / "question-tuned"
    assert {"tuning", "expected_best", "tuned"} <= {path.stem for path in (report / "tables").glob("*.csv")}
    assert (reports / "question-tuning" / "figures" / "sweep_learning_rate.png").exists()
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    rebuild(report)
    assert {path: path.read_bytes() for path in report.rglob("*") if path.is_file()} == before
    monkeypatch.setattr(run, "_schedule", None)
    assert run_tuned(ask, results, reports, Console(), **arguments) == 0, "nothing is left to run"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seeds": [2, 11]}, "tune.seeds has 2, which is reported too"),
        ({"over": {"optimisation.learning_rat": {"log_uniform": [1e-4, 1e-2]}}}, "learning_rat"),
        ({"over": {"data.train_tokens": {"uniform": [100, 200]}}}, "cannot differ between rows"),
        ({"over": {RATE: {"log_uniform": [1e-2, 1e-4]}}}, "not in ascending order"),
        ({"over": {RATE: {}}}, "log_uniform or uniform"),
        ({"trials": 1}, "trials"),
        ({"choose": "luck"}, "choose is 'luck'"),
        ({"searcher": "optuna"}, "rankings flip before the rate has decayed"),
        ({"scheduler": "asha"}, "rankings flip before the rate has decayed"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_runs(
    change: dict[str, Any], reason: str, write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid = write_grid(["full_kd"], workload=str(workload_file), tune={**TUNE, **change})
    with pytest.raises(UserError, match=reason):
        plans(partial(make_plan, grid, Results(tmp_path / "results")))


def test_a_row_that_sets_what_is_tuned_and_a_grid_without_a_budget_are_refused(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    rows = [{"preset": "full_kd", "workload": {RATE: 2e-3}}]
    results = Results(tmp_path / "results")
    with pytest.raises(UserError, match=r"sets optimisation\.learning_rate itself"):
        plans(partial(make_plan, write_grid(rows, workload=str(workload_file), tune=TUNE), results))
    with pytest.raises(UserError, match="has no `tune`"):
        plans(partial(make_plan, write_grid(["full_kd"], workload=str(workload_file)), results))


def test_several_settings_are_drawn_from_a_halton_sequence() -> None:
    over = {RATE: {"log_uniform": [1e-4, 1e-2]}, "optimisation.weight_decay": {"uniform": [1.0, 4.0]}}
    draws = Tune.model_validate({**TUNE, "over": over, "trials": 4}).draws()
    assert [draw[RATE] for draw in draws] == [1e-3, 3.16e-4, 3.16e-3, 1.78e-4]
    assert [draw["optimisation.weight_decay"] for draw in draws] == [2.0, 3.0, 1.33, 2.33]
