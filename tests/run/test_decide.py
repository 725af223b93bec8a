"""More seeds for undecided rows: which, how many at most, the same end after a stop; refused where senseless."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.analysis import undecided
from harness.analysis.original import read_original
from harness.config.errors import UserError
from harness.records.layout import Results
from harness.records.store import read_manifest
from harness.run import run
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import Plan, make_plan, print_plan
from harness.run.reproduce import Command, plan_again
from harness.run.watchers import Endings

ROWS = ["no_kd", "full_kd", "se_kd", "random_pos"]


class Here:
    """Runs a plan's trials in this process, without Ray, until so many have run in all."""

    def __init__(self, at_most: int = 99) -> None:
        self.left = at_most

    def __call__(self, plan: Plan, results: Results, console: Console, options: Options) -> Endings:
        now, later = plan.todo[: self.left], plan.todo[self.left :]
        self.left -= len(now)
        for trial in now:
            run_and_write(trial, results, options=options)
        pending = tuple(trial.id for trial in later)
        return Endings(finished=tuple(trial.id for trial in now), failed={}, pending=pending, interrupted=0)


@pytest.fixture
def grid(write_grid: Callable[..., Path], workload_file: Path) -> Path:
    return write_grid(ROWS, workload=str(workload_file), baseline="Full KD")


def trials_of(folder: Path) -> list[tuple[str, int | None]]:
    return [(entry.label, entry.seed) for entry in read_manifest(folder / "manifest.json").trials]


def test_undecided_rows_and_the_baseline_get_more_seeds_and_an_interrupted_run_ends_the_same(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undecided, "undecided", lambda looked: ("SE-KD 20%",))
    results, printed = Results(tmp_path / "results"), io.StringIO()

    def decide(runner: Here) -> int:
        monkeypatch.setattr(run, "_schedule", runner)
        plan = make_plan(grid, results, decide=3)
        console = Console(file=printed, width=200)
        command = f"harness run {grid} --decide 3"
        return run.run_plan(plan, results, tmp_path / "reports", console, command=command, options=Options())

    folder = results.root / "question-decide-3"
    assert decide(Here(at_most=8)) == 130, "stopped among the further seeds"
    assert not (tmp_path / "reports").exists()
    interrupted = (folder / "manifest.json").read_text()
    assert decide(Here()) == 0
    assert decide(Here(at_most=0)) == 0, "nothing is left"
    assert "Undecided against Full KD: seeds 3 for SE-KD 20%, and the baseline." in printed.getvalue()
    assert (folder / "manifest.json").read_text() == interrupted
    more = [("Full KD", 3), ("SE-KD 20%", 3)]
    assert [each for each in trials_of(folder) if each[1] == 3] == more
    assert len(trials_of(folder)) == 7 + 2
    report = tmp_path / "reports" / "question-decide-3"
    assert "Rows with 3 seeds, because 2 had not decided them" in (report / "tables" / "main.md").read_text()
    assert "Full KD, SE-KD 20%; tests allow for the two looks" in (report / "report.md").read_text()
    _, again = plan_again(
        read_original(report), Command(grid=grid, decide=3), Results(tmp_path / "again"), arithmetic=None
    )
    assert sorted(entry.label for entry, _ in again.values() if entry.seed == 3) == ["Full KD", "SE-KD 20%"]


def test_the_plan_says_what_it_may_cost_at_most(grid: Path, tmp_path: Path) -> None:
    plan, out = make_plan(grid, Results(tmp_path / "results"), decide=6), io.StringIO()
    assert (plan.grid.name, plan.second_look and plan.second_look.seeds) == ("question-decide-6", (3, 4, 5, 6))
    print_plan(Console(file=out, width=200), plan, Results(tmp_path / "results"))
    assert "7 of 7 trials to run" in out.getvalue()
    assert "seeds 3, 4, 5, 6 for the baseline and the rows that are undecided against it: at most 12 trials more" in (
        out.getvalue()
    )


@pytest.mark.parametrize(
    ("fields", "asked", "reason"),
    [
        ({}, {"decide": 2}, "--decide is 2; question has 2 seeds, so it takes 3 or more"),
        ({}, {"decide": 4, "labels": ("full",)}, "leave out --only and --seeds"),
        ({}, {"decide": 4, "seeds": (1,)}, "leave out --only and --seeds"),
        ({"baseline": None}, {"decide": 4}, "names no baseline"),
        ({"seeds": [4]}, {"decide": 4}, "has one seed"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    fields: dict[str, Any],
    asked: dict[str, Any],
    reason: str,
    write_grid: Callable[..., Path],
    workload_file: Path,
    tmp_path: Path,
) -> None:
    grid = write_grid(ROWS, workload=str(workload_file), **{"baseline": "Full KD", **fields})
    with pytest.raises(UserError, match=reason):
        make_plan(grid, Results(tmp_path / "results"), **asked)
