"""Settings of a workload changed from outside: the trials of a file that says the same, refused before work starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.figures.varied import references, sweeps
from harness.analysis.original import read_original
from harness.analysis.report import read_run, write_report
from harness.api import distil
from harness.config.errors import UnknownNameError, UserError
from harness.config.expand import load_grid
from harness.config.overrides import parse_settings
from harness.config.workloads import read_workload
from harness.records.layout import Results
from harness.records.store import read_record
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import Plan, make_plan
from harness.run.reproduce import Command, plan_again
from harness.run.run import write_plan

WriteGrid = Callable[..., Path]
WriteWorkload = Callable[..., Path]

RATES = {"preset": "full_kd", "label": "Full KD {learning_rate}"}


def ids(plan: Plan) -> list[str]:
    return [trial.id for _, trial in plan.rows]


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["optimisation.learning_rate=3e-4"], {"optimisation__learning_rate": 0.0003}),
        (["optimisation.betas=[0.9, 0.99]", "seeds=[7]"], {"optimisation__betas": [0.9, 0.99], "seeds": [7]}),
        (["data.train_tokens=256", "lora={rank: 2, alpha: 4}"],
         {"data__train_tokens": 256, "lora": {"rank": 2, "alpha": 4}}),
        (["lora.rank=2", "lora.alpha=4.0"], {"lora": {"rank": 2, "alpha": 4}}),
        (["teacher=null", "evaluation.num_items=3", "resources.dtype=bfloat16"],
         {"teacher": None, "evaluation__num_items": 3, "resources__dtype": "bfloat16"}),
    ],
)  # fmt: skip
def test_set_makes_the_trials_of_a_file_that_says_the_same(
    words: list[str], changes: dict[str, Any], write_grid: WriteGrid, write_workload: WriteWorkload, tmp_path: Path
) -> None:
    results, rows = Results(tmp_path / "results"), ["no_kd", "sft"]
    plain = make_plan(write_grid(rows, workload=str(write_workload())), results)
    settings = parse_settings(words)
    set_ = make_plan(write_grid(rows, workload=str(write_workload())), results, overrides=settings)
    file = make_plan(write_grid(rows, workload=str(write_workload("other", **changes))), results)
    assert ids(set_) == ids(file) != ids(plain)
    assert set_.grid.name != plain.grid.name, "its table must not replace the grid's own"
    assert set_.workload.name == set_.grid.name.removeprefix("question-")


@pytest.mark.parametrize(
    "row",
    [
        {"workload": {"optimisation.learning_rate": 0.0003, "lora": {"rank": 2, "alpha": 4}}},
        {"workload": {"optimisation": {"learning_rate": "3e-4"}, "lora.rank": 2, "lora.alpha": 4}},
        {"workload": {"lora": {"rank": 9, "alpha": 4}},
         "sweep": {"workload.optimisation.learning_rate": [3.0e-4], "workload.lora.rank": [2]}},
        {"sweep": {"workload": [{"optimisation.learning_rate": 0.0003, "lora": {"rank": 2, "alpha": 4}}]}},
    ],
)  # fmt: skip
def test_a_row_makes_the_trials_of_a_file_that_says_the_same(
    row: dict[str, Any], write_grid: WriteGrid, write_workload: WriteWorkload, tmp_path: Path
) -> None:
    results = Results(tmp_path / "results")
    changes = {"optimisation__learning_rate": 0.0003, "lora": {"rank": 2, "alpha": 4}}
    plan = make_plan(write_grid(["sft", {"preset": "full_kd", **row}], workload=str(write_workload())), results)
    file = make_plan(write_grid(["sft", "full_kd"], workload=str(write_workload("other", **changes))), results)
    plain = make_plan(write_grid(["sft", "full_kd"], workload=str(write_workload())), results)
    assert ids(plan)[:2] == ids(plain)[:2], "a row that says nothing stays as it was"
    assert ids(plan)[2:] == ids(file)[2:] != ids(plain)[2:]
    assert {trial.workload.name for trial in plan.trials} == {"variant"}


def test_what_a_row_says_stands_over_set(write_grid: WriteGrid, write_workload: WriteWorkload, tmp_path: Path) -> None:
    rows = ["sft", {**RATES, "workload": {"optimisation.learning_rate": 0.5}}]
    settings = parse_settings(["optimisation.learning_rate=0.1", "optimisation.warmup=0.5"])
    grid = write_grid(rows, workload=str(write_workload()))
    plan = make_plan(grid, Results(tmp_path), overrides=settings, seeds=(1,), cpu=True)
    found = {label: trial.workload.optimisation for label, trial in plan.rows}
    assert {label: (each.learning_rate, each.warmup) for label, each in found.items()} == {
        "SFT (no teacher)": (0.1, 0.5),
        "Full KD 0.5": (0.5, 0.5),
    }


def test_labels_name_what_a_row_changes(write_grid: WriteGrid) -> None:
    sweep = {"workload.optimisation.learning_rate": ["1e-4", 1.0e-3, 1], "workload.optimisation.schedule": ["linear"]}
    method = {"position": {"policy": "all"}, "criterion": "forward_kl"}
    grid = load_grid(write_grid([{**RATES, "sweep": sweep}, {**method, "sweep": sweep}]))
    assert [strategy.label for strategy in grid.strategies] == [
        "Full KD 0.0001",
        "Full KD 0.001",
        "Full KD 1",
        "all, forward kl, learning rate 0.0001, schedule linear",
        "all, forward kl, learning rate 0.001, schedule linear",
        "all, forward kl, learning rate 1, schedule linear",
    ]
    with pytest.raises(UserError, match=r"label 'Full KD {learning_rate}' may use .*{warmup}$"):
        load_grid(write_grid([{**RATES, "workload": {"optimisation.warmup": 0.5}}]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimisation.learnin_rate=1"], r"tiny.yaml with --set: unknown key 'optimisation.learnin_rate'. Did you "
         "mean 'learning_rate'"),
        (["optimization.learning_rate=1"], r"unknown workload key 'optimization'. Did you mean 'optimisation'"),
        (["folder=/"], r"unknown workload key 'folder'"),
        (["optimisation.learning_rate=-1"], r"with --set: optimisation.learning_rate: .* greater than 0 \(it is -1\)"),
        (["optimisation.micro_batch_size=3"], r"batch_size 8 is not a multiple of micro_batch_size 3"),
        (["resources.dtype=bfloat16", "optimisation.learning_rate=1e-5"], r"is below 3.1e-05, half the spacing"),
        (["learning_rate"], r"--set takes a key of the workload, = and a value, not 'learning_rate'"),
        (["=3"], r"--set takes .* not '=3'"),
        (["seeds=[1"], r"--set seeds, line 1, column \d+: "),
        (["seeds.first=1"], r"'seeds.first' goes through 'seeds', which is not a mapping"),
        (["seeds=[1]", "seeds=[2]"], r"--set gives seeds twice"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(words: list[str], message: str) -> None:
    with pytest.raises((UserError, UnknownNameError), match=message):
        read_workload("tiny", parse_settings(words))


def test_seeds_that_a_grid_names_itself_cannot_be_set(write_grid: WriteGrid, workload_file: Path) -> None:
    grid = write_grid(["sft"], workload=str(workload_file), seeds=[5])
    with pytest.raises(UserError, match=r"--set seeds would do nothing: grid question names its own, \[5\]"):
        make_plan(grid, Results(Path("absent")), overrides={"seeds": [1]})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"workload": {"data.train_tokens": 5}},
         r"strategies\[1\]: workload.data.train_tokens cannot differ between rows, "
         r"only optimisation and lora can: .*--set data.train_tokens=\.\.\., or a workload of its own$"),
        ({"sweep": {"workload.teacher.path": ["a", "b"]}}, "workload.teacher.path cannot differ between rows"),
        ({"workload": {"optimization": {"epochs": 2}}},
         "unknown workload key 'optimization'. Did you mean 'optimisation'"),
        ({"workload": "tiny"}, "workload maps settings to values, as optimisation.learning_rate; it is 'tiny'"),
        ({"workload": {"optimisation.epochs": 2, "optimisation": {"epochs": 3}}},
         "workload names optimisation.epochs twice"),
        ({"preset": "no_kd", "workload": {"optimisation.epochs": 2}}, "train is false, so workload would do nothing"),
        ({"sweep": {"workload.optimisation.epochs.x": [1]}, "workload": {"optimisation.epochs": 2}},
         "sweep path 'workload.optimisation.epochs.x' goes through 'epochs', which is not a mapping"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_refused(entry: dict[str, Any], message: str, write_grid: WriteGrid) -> None:
    with pytest.raises((UserError, UnknownNameError), match=message):
        load_grid(write_grid([{"preset": "full_kd", **entry}]))
    with pytest.raises(UserError, match="unknown key 'overrides': what a row changes of the workload is the row's"):
        load_grid(write_grid(["full_kd"], overrides={}))


def test_a_row_is_checked_as_a_workload_file_is(write_grid: WriteGrid, workload_file: Path, tmp_path: Path) -> None:
    rows = [{**RATES, "workload": {"optimisation.learning_rate": 0.1, "optimisation.epoch": 2}}]
    grid = write_grid(rows, workload=str(workload_file))
    with pytest.raises(UserError, match=r"with strategy 'Full KD 0.1': unknown key 'optimisation.epoch'. Did you mean"):
        make_plan(grid, Results(tmp_path))
    rows = [{**RATES, "workload": {"optimisation.learning_rate": 0.1, "optimisation.batch_size": 64}}]
    with pytest.raises(UserError, match="12 sequences do not fill one batch of 64"):
        make_plan(write_grid(rows, workload=str(workload_file)), Results(tmp_path))


def test_one_step_has_no_workload() -> None:
    with pytest.raises(UserError, match="strategy: workload changes how a grid's row is trained, and this is one step"):
        distil({"preset": "se_kd", "workload": {"optimisation.epochs": 2}}, targets=None)  # type: ignore[arg-type]


def test_a_learning_rate_as_an_axis_runs_goes_on_and_is_reproduced(
    write_grid: WriteGrid, workload_file: Path, tmp_path: Path
) -> None:
    """Only what a longer sweep adds is run; the report tells the rates; each row finds its own trial again."""
    results, rates = Results(tmp_path / "results"), [0.01, 0.001]

    def sweep(rates: list[float]) -> Path:
        rows = [{**RATES, "sweep": {"workload.optimisation.learning_rate": rates}}]
        return write_grid(rows, workload=str(workload_file), seeds=[5], baseline="Full KD 0.001")

    def run(plan: Plan) -> None:
        for trial in plan.todo:
            run_and_write(trial, results, options=Options())

    settings = parse_settings(["optimisation.warmup=0.5"])
    run(make_plan(sweep(rates), results, overrides=settings))
    grid = sweep([0.1, *rates])
    plan = make_plan(grid, results, overrides=settings)
    assert [trial.name for trial in plan.todo] == ["Full KD 0.1, seed 5"]
    run(plan)
    assert not make_plan(grid, results, overrides=settings).todo
    losses = [read_record(results.record(trial.id)).metrics["heldout_loss"].value for trial in plan.trials]
    assert len(set(losses)) == 3

    write_plan(plan, results, f"harness run {grid} --set optimisation.warmup=0.5")
    written = write_report(results.root, plan.grid.name, tmp_path / "reports")
    report = tmp_path / "reports" / "question-workload-optimisation.warmup-0.5"
    assert written is not None
    shown = (report / "tables" / "settings.csv").read_text()
    assert "optimisation.learning_rate,0.1; 0.01; 0.001" in shown
    assert "optimisation.warmup,0.5" in shown
    assert (report / "figures" / "sweep_learning_rate.png").exists()
    (swept,) = sweeps(run_of := read_run(report))
    assert list(swept.lines[0].labels) == [0.001, 0.01, 0.1]
    assert list(references(run_of, swept)) == ["Full KD 0.001"], "other rates are the line, not held against it"

    original = read_original(report)
    again, records = plan_again(
        original, Command(grid=grid, overrides=settings), Results(tmp_path / "again"), arithmetic=None
    )
    assert {trial.id for trial in again.todo} == {trial.id for trial in plan.trials}
    assert all(records[trial.id][0].label == trial.strategy.label for trial in again.todo)
    with pytest.raises(UserError, match=r"has changed: optimisation.warmup was 0.5 and is 0.1"):
        plan_again(original, Command(grid=grid), Results(tmp_path / "again"), arithmetic=None)
