"""`harness plan`: what would run and what it costs, and that the cost is what a trial then records."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from sampling import sampled

from harness.config.errors import UserError
from harness.records.layout import Results
from harness.records.store import write_record
from harness.run.plan import make_plan, print_plan, reads_cache
from harness.trial.execute import run_trial
from harness.trial.flops import predict_flops

GRIDS = Path(__file__).parents[2] / "grids"


@pytest.mark.parametrize("preset", sampled(["se_kd", "at_kd", "full_kd", "random_pos", "sft", "full_kd_dense"], [0, 1]))
def test_predicted_flops_are_those_of_the_trial(
    preset: str, write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    # Whole documents of targets: with separators supervised, every position but the last is valid, as predicted.
    workload = write_workload(data__cross_document_targets=True, optimisation__micro_batch_size=4)
    plan = make_plan(write_grid([preset], workload=str(workload)), Results(tmp_path / "results"), seeds=(1,))
    (trial,) = plan.todo
    measured = run_trial(trial, results=Results(tmp_path)).record.cost.flops
    assert predict_flops(trial) == pytest.approx(measured, rel=1e-12)


def test_a_finished_trial_is_not_planned_again_unless_forced(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid, results = write_grid(["no_kd", "sft"], workload=str(workload_file)), tmp_path / "results"
    plan = make_plan(grid, Results(results))
    assert [trial.name for trial in plan.todo] == ["No KD", "SFT (no teacher), seed 1", "SFT (no teacher), seed 2"]
    assert not plan.needs_train_cache  # neither trains from the teacher
    outcome = run_trial(plan.todo[0], results=Results(tmp_path))
    write_record(Results(results), outcome.record, outcome.tables)
    assert [trial.seed for trial in make_plan(grid, Results(results)).todo] == [1, 2]
    assert len(make_plan(grid, Results(results), force=True).todo) == 3
    assert [trial.seed for trial in make_plan(grid, Results(results), labels=("sft",), seeds=(2,)).todo] == [2]


def test_online_and_teacherless_strategies_need_no_cache(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    entries = [{"preset": "full_kd", "label": "online", "teacher": "online"}, "sft", "full_kd"]
    plan = make_plan(write_grid(entries, workload=str(workload_file)), Results(tmp_path), seeds=(1,))
    assert [reads_cache(trial) for trial in plan.todo] == [False, False, True]


def test_labels_that_compute_the_same_share_a_trial(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    entries = ["full_kd", {"preset": "full_kd", "label": "the same again"}]
    plan = make_plan(write_grid(entries, workload=str(workload_file)), Results(tmp_path), seeds=(1,))
    assert len(plan.todo) == 1
    assert [(label, trial.seed) for label, trial in plan.rows] == [
        ("Full KD", 1), ("Full KD", 2), ("the same again", 1), ("the same again", 2)
    ]  # fmt: skip


def test_the_printed_plan_names_every_row(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(write_grid(["no_kd", "full_kd"], workload=str(workload_file)), Results(tmp_path))
    print_plan(Console(width=120), plan, Results(tmp_path))
    printed = capsys.readouterr().out
    assert "No KD" in printed
    assert "Full KD" in printed
    assert "3 of 3 trials to run" in printed


def test_a_part_of_a_grid_keeps_its_other_rows_in_the_table(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid = write_grid(["no_kd", "full_kd", "se_kd"], workload=str(workload_file))
    plan = make_plan(grid, Results(tmp_path), labels=("SE",), seeds=(2,))
    assert [trial.name for trial in plan.todo] == ["SE-KD 20%, seed 2"]
    assert len(plan.rows) == 5


def test_another_workload_is_another_report(
    write_grid: Callable[..., Path], workload_file: Path, write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    grid = write_grid(["no_kd"], workload=str(workload_file), name="question")
    assert make_plan(grid, Results(tmp_path)).grid.name == "question"
    assert make_plan(grid, Results(tmp_path), workload=str(write_workload("mine"))).grid.name == "question-mine"


def test_another_split_is_other_trials_and_another_report(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    grid = write_grid(["full_kd"], workload=str(workload_file), split="test", stem="question")
    copied = write_grid(["full_kd"], workload=str(workload_file), split="validation", stem="copied")
    own, other = (make_plan(grid, Results(tmp_path), split=split) for split in ("test", "validation"))
    assert (own.grid.name, other.grid.name) == ("question", "question-validation")
    ids = {plan.grid.name: [trial.id for trial in plan.trials] for plan in (own, other)}
    assert ids["question"] == [trial.id for trial in make_plan(grid, Results(tmp_path)).trials]
    assert ids["question-validation"] == [trial.id for trial in make_plan(copied, Results(tmp_path)).trials]
    assert not set(ids["question"]) & set(ids["question-validation"])
    with pytest.raises(UserError, match="--split is 'train'; it takes validation or test"):
        make_plan(grid, Results(tmp_path), split="train")


def test_a_sample_keeps_the_rows_a_table_needs_and_is_always_the_same(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path
) -> None:
    sweep = {"preset": "se_kd", "label": "{budget}", "sweep": {"position.budget": [0.1 * n for n in range(1, 10)]}}
    grid = write_grid(["no_kd", "full_kd", sweep], workload=str(workload_file), baseline="Full KD", name="wide")
    plan = make_plan(grid, Results(tmp_path), sample=3)
    labels = list(dict.fromkeys(label for label, _ in plan.rows))
    assert labels[:2] == ["No KD", "Full KD"]
    assert len(labels) == 5
    assert plan.grid.name == "wide-sample-3"
    assert labels == list(dict.fromkeys(label for label, _ in make_plan(grid, Results(tmp_path), sample=3).rows))
    with pytest.raises(UserError, match=r"--sample is 10; wide has 1 to 9 strategies"):
        make_plan(grid, Results(tmp_path), sample=10)


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_grid_states_its_hypothesis_and_can_be_planned(path: Path, tmp_path: Path) -> None:
    plan = make_plan(path, Results(tmp_path), sample=5 if path.stem == "everything" else None)
    assert plan.todo
    assert plan.grid.name.partition("-")[0] == path.stem
    assert plan.grid.hypothesis.startswith("Hypothesis: ")
    assert plan.grid.baseline in {strategy.label for strategy in plan.grid.strategies}


def test_a_plan_too_long_to_read_is_counted(
    write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {"preset": "se_kd", "label": "{budget}", "sweep": {"position.budget": [n / 200 for n in range(1, 102)]}}
    plan = make_plan(write_grid([sweep], workload=str(workload_file)), Results(tmp_path))
    print_plan(Console(width=200), plan, Results(tmp_path))
    printed = capsys.readouterr().out
    assert "101 strategies, too many to list" in printed
    assert "202 of 202 trials to run" in printed
