"""A report's trials run again: equal to the byte, or what differs is named; what is gone is refused."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from harness.analysis.report import write_report
from harness.cli import main as cli
from harness.records.files import sealed, unsealed
from harness.records.layout import Results
from harness.run import reproduce
from harness.run.attempt import run_and_write
from harness.run.options import Options
from harness.run.plan import Plan, make_plan
from harness.run.run import write_plan

Typed = Callable[..., tuple[int, str, str]]


def run_here(plan: Plan, results: Results, console: Console, options: Options) -> None:
    """Run a plan's trials in this process, without Ray."""
    for trial in plan.todo:
        run_and_write(trial, results, options=options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, workload_file: Path) -> Path:
    """A folder with a grid of three trials and its report, on another split than the grid's."""
    folder = tmp_path_factory.mktemp("made")
    grid = folder / "question.yaml"
    grid.write_text(
        f"# Again?\nworkload: {workload_file}\nsplit: test\nbaseline: Full KD\nseeds: [5, 6]\n"
        "strategies: [no_kd, full_kd]\n"
    )
    results = Results(folder / "results")
    plan = make_plan(grid, results, split="validation")
    run_here(plan, results, Console(), Options())
    write_plan(plan, results, f"harness run {grid} --split validation")
    write_report(results.root, plan.grid.name, folder / "reports")
    return folder


@pytest.fixture
def report(made: Path, tmp_path: Path) -> Path:
    """A copy of the report, to be changed."""
    return Path(shutil.copytree(made / "reports" / "question-validation", tmp_path / "question"))


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """Type `harness reproduce`; trials run in this process: exit code, output and errors."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(reproduce, "run_missing", run_here)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "reproduce", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    with mock.patch.dict(os.environ):
        yield run


def edit(report: Path, label: str, change: Callable[[dict[str, object]], None]) -> None:
    """Change the records of a label in a report."""
    for entry in json.loads((report / "manifest.json").read_text())["trials"]:
        path = report / "records" / f"{entry['trial_id']}.json"
        if entry["label"] == label:
            record = dict(unsealed(path.read_text()))
            change(record)
            path.write_text(sealed(record))


def test_a_trial_that_is_the_same_is_equal_to_the_byte(made: Path, typed: Typed) -> None:
    code, out, err = typed(made / "reports" / "question-validation", "--trials", 2, "--seed", 3)
    assert (code, err) == (0, "")
    assert "2 of the report's trials, drawn by --seed 3." in out
    assert "2 of 2 trials are equal to the byte." in out
    assert "Condition that differs" not in out


def test_what_differs_is_named_with_its_size_the_seeds_spread_and_conditions(
    report: Path, typed: Typed, tmp_path: Path
) -> None:
    def change(record: dict[str, object]) -> None:
        if record["seed"] == 5:
            record["metrics"]["heldout_loss"]["value"] += 0.25  # type: ignore[index]
            record["tables"]["curve"] = "0" * 64  # type: ignore[index]
        # As records of before are, and those of another release.
        del record["environment"]["processor"]  # type: ignore[attr-defined]
        record["environment"]["torch"] = "2.0.0"  # type: ignore[index]

    edit(report, "Full KD", change)
    code, out, _ = typed(report, "--only", "full", "--table", tmp_path / "out" / "again")
    assert code == 1
    assert "Full KD, seed 5: 1 of" in out
    assert "metrics differ; tables differ: curve (same content in other bytes)" in out
    assert "Full KD, seed 6: equal to the byte" in out
    assert "1 of 2 trials are equal to the byte." in out
    (row,) = (
        line.split() for line in out.splitlines() if line.startswith("Full KD, seed 5") and "heldout_loss" in line
    )
    assert row[-2] == "-0.25"
    assert float(row[-1]) > 0.1, "the spread of the report's two seeds, of which one was moved"
    assert "Condition that differs: processor: not recorded, now" in out
    assert "Condition that differs: torch: 2.0.0, now" in out
    heading, *rows = (tmp_path / "out" / "again.csv").read_text().splitlines()
    assert heading == "label,seed,metric,recorded,measured,difference,spread"
    assert [row.split(",")[:3] for row in rows] == [["Full KD", "5", "heldout_loss"], ["Full KD", "6", ""]]
    assert "| Full KD | 2 | 1 | 0.25 (" in (tmp_path / "out" / "again.md").read_text()


def refused(answer: tuple[int, str, str]) -> str:
    code, out, err = answer
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


def test_what_cannot_be_reproduced_is_one_line(
    report: Path, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "run_missing", None)
    manifest = json.loads((report / "manifest.json").read_text())

    def says(command: str) -> str:
        (report / "manifest.json").write_text(json.dumps(manifest | {"command": command}))
        return refused(typed(report))

    assert f"{report} cannot be reproduced: its grid absent.yaml is gone" in says("harness run absent.yaml")
    grid = manifest["command"].split()[2]
    assert "its workload absent.yaml is gone" in says(f"harness run {grid} --workload absent.yaml")
    assert "its plugin absent.py is gone" in says(f"harness run {grid} --plugin absent.py")
    assert "it was made by 'harness bench grid', not by harness run" in says("harness bench grid")
    (report / "manifest.json").write_text(json.dumps(manifest))
    assert "--trials is 9; " in refused(typed(report, "--trials", 9))
    assert "unknown row 'full kf'. Did you mean 'Full KD'?" in refused(typed(report, "--only", "full kf"))
    assert "unknown arithmetic 'pined'" in refused(typed(report, "--arithmetic", "pined"))
    assert f"{tmp_path} is not empty" in refused(typed(report, "--results", tmp_path))
    assert "no such file" in refused(typed(tmp_path / "absent"))

    def other(record: dict[str, object]) -> None:
        record["workload"]["optimisation"]["learning_rate"] = 0.5  # type: ignore[index]

    edit(report, "Full KD", other)
    assert "has changed: optimisation.learning_rate was 0.5 and is 0.001" in refused(typed(report, "--only", "Full"))
    edit(report, "No KD", lambda record: record["strategy"].update(model="teacher"))  # type: ignore[attr-defined]
    assert "has no such trial as No KD" in refused(typed(report, "--only", "No KD"))
