"""`harness run` as a user types it: trials through Ray, nothing run twice, failures contained, bad input refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.records.files import sealed, unsealed
from harness.records.store import read_manifest, read_record

PROJECT = Path(__file__).parents[2]


def harness(*arguments: object, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, output and errors of one that starts no trial."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, workload_file: Path) -> tuple[Path, Path, str]:
    """A grid of four trials, of which one diverges, that has run once in a checkout: file, folder, what was printed."""
    folder = tmp_path_factory.mktemp("run")
    grid = folder / "question.yaml"
    grid.write_text(
        "# Does it run?\n"
        f"workload: {workload_file}\nsplit: validation\nbaseline: Full KD\nseeds: [5]\n"
        "strategies:\n"
        "  - {preset: full_kd, label: diverges, feature: {distance: cosine, weight: 1.0e38}}\n"
        "  - no_kd\n  - full_kd\n  - se_kd\n"
    )
    shutil.copyfile(PROJECT / ".gitignore", folder / ".gitignore")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "as it is cloned")
    done = harness("run", grid.name, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr, "it is in the record, and under --debug"
    return grid, folder, done.stdout


def test_run_leaves_a_record_of_every_trial_and_prints_the_table(finished: tuple[Path, Path, str]) -> None:
    _, folder, printed = finished
    manifest = read_manifest(folder / "results" / "question" / "manifest.json")
    assert [(entry.label, entry.seed) for entry in manifest.trials] == [
        ("diverges", 5),
        ("No KD", None),
        ("Full KD", 5),
        ("SE-KD 20%", 5),
    ]
    for entry in manifest.trials[1:]:
        record = read_record(folder / "results" / "trials" / entry.trial_id / "record.json")
        assert record.status == "finished"
        assert {"accuracy", "adherence", "perplexity", "ece", "heldout_loss", "teacher_kl"} <= record.metrics.keys()
        assert (folder / "results" / "trials" / entry.trial_id / "items.parquet").exists()
        assert record.cost.wall_s.keys() >= {"load", "eval"}
    assert all(label in printed for label in ("No KD", "Full KD", "SE-KD 20%"))
    assert "3 finished, 1 failed, 0 not run" in printed
    for name in ("report.html", "report.md", "tables/main.csv", "figures/overview.png", "manifest.json"):
        assert (folder / "results" / "reports" / "question" / name).stat().st_size > 0


def test_a_run_leaves_a_checkout_clean(finished: tuple[Path, Path, str]) -> None:
    _, folder, printed = finished
    assert git(folder, "status", "--porcelain") == ""
    assert f"Report: {Path('results/reports/question/report.html')}" in printed
    assert "the committed ones" not in printed


def test_a_run_is_compared_with_the_committed_report(
    finished: tuple[Path, Path, str], here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, folder, _ = finished
    monkeypatch.chdir(tmp_path)
    chosen = [option for label in ("no kd", "full kd", "se-kd") for option in ("--only", label)]
    committed = tmp_path / "reports" / "question"

    def last_line() -> str:
        code, out, err = here("run", grid, "--results", folder / "results", *chosen)
        assert (code, err) == (0, "")
        return str(out.splitlines()[-1])

    here("report", folder / "results" / "question", "--reports", "reports")
    assert last_line() == "3 of 4 records equal the committed ones to the byte (reports/question); 1 not finished."
    assert last_line().startswith("3 of 4"), "said again where the report is up to date"
    for path in (committed / "records").glob("*.json"):
        record = unsealed(path.read_text())
        if record["label"] == "Full KD":
            record["metrics"]["heldout_loss"]["value"] += 0.25
            record["workload"]["optimisation"]["learning_rate"] = 0.5
            record["core"] = "another"
            path.write_text(sealed(record))
    line = last_line()
    assert line.startswith("2 of 4 records equal the committed ones to the byte (reports/question); 1 differing in ")
    assert "differing in heldout_loss by up to 0.25; 1 not finished. What was otherwise: " in line
    assert "optimisation.learning_rate was 0.5 and is 0.001; core: another, now " in line
    (committed / "manifest.json").write_text("{}")
    assert last_line().startswith("The records cannot be compared with the committed ones: reports/question/manifest")
    code, out, _ = here("run", grid, "--results", folder / "results", "--reports", tmp_path / "reports", *chosen)
    assert (code, "the committed ones" in out) == (0, False), "it is the committed report that was written"


def test_a_second_run_starts_no_trial(finished: tuple[Path, Path, str], here: Callable[..., Any]) -> None:
    grid, folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "results" / "trials").rglob("*") if path.is_file()}
    # What failed would run again.
    chosen = [option for label in ("no kd", "full kd", "se-kd") for option in ("--only", label)]
    code, out, _ = here("run", grid, "--results", folder / "results", *chosen)
    assert code == 0
    assert "All 3 chosen trials of question are finished, 1 not chosen; nothing to run" in " ".join(out.split())
    # The report is of all trials, whichever command made them.
    assert "--only" not in read_manifest(folder / "results" / "question" / "manifest.json").command
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_report_is_written_again_only_where_something_has_changed(
    finished: tuple[Path, Path, str], here: Callable[..., Any]
) -> None:
    grid, folder, _ = finished
    command = ("run", grid, "--results", folder / "results", "--only", "full kd")
    page = folder / "results" / "reports" / "question" / "report.md"
    here(*command)
    text, written = page.read_text(), page.stat().st_mtime_ns
    _, out, _ = here(*command)
    assert "The report is up to date." in out
    assert "Full KD" in out.partition("up to date")[2], "it is printed all the same"
    assert page.stat().st_mtime_ns == written
    page.write_text("edited")
    _, out, _ = here(*command)
    assert "up to date" not in out
    assert page.read_text() == text


def test_trials_that_are_not_chosen_are_not_called_finished(
    finished: tuple[Path, Path, str], tmp_path: Path, here: Callable[..., Any]
) -> None:
    grid, _, _ = finished
    folders = ("--results", tmp_path / "results", "--reports", tmp_path / "reports")
    _, out, _ = here("run", grid, "--dry-run", *folders, "--only", "se-kd")
    assert "1 of 4 trials to run (3 not chosen)" in out
    (row,) = [line for line in out.splitlines() if "Full KD" in line]
    assert row.replace("│", " ").split()[2:5] == ["0", "0", "1"], "to run, finished, not chosen"


def test_dry_run_runs_and_writes_nothing(
    finished: tuple[Path, Path, str], tmp_path: Path, here: Callable[..., Any]
) -> None:
    grid, _, _ = finished
    code, out, _ = here("run", grid, "--dry-run", "--results", tmp_path / "results", "--reports", tmp_path / "reports")
    assert code == 0
    assert "4 of 4 trials to run" in out
    assert list(tmp_path.iterdir()) == []


def test_force_and_only_run_one_finished_trial_again(
    finished: tuple[Path, Path, str], here: Callable[..., Any]
) -> None:
    grid, folder, _ = finished
    options = ("--results", folder / "results", "--only", "se-kd", "--force")
    _, out, err = here("run", grid, *options, "--dry-run")
    assert "1 of 4 trials to run (3 not chosen)" in out, err


def test_asking_for_diagnostics_runs_trained_trials_again(
    finished: tuple[Path, Path, str], here: Callable[..., Any]
) -> None:
    grid, folder, _ = finished
    options = ("--results", folder / "results", "--diagnostics", 2)
    _, out, err = here("run", grid, *options, "--dry-run")
    assert "3 of 4 trials to run" in out, err


def test_a_failing_trial_is_recorded_and_does_not_stop_the_others(finished: tuple[Path, Path, str]) -> None:
    _, folder, printed = finished
    failed = read_manifest(folder / "results" / "question" / "manifest.json").trials[0]
    diverged = read_record(folder / "results" / "trials" / failed.trial_id / "record.json")
    assert diverged.status == "failed"
    assert diverged.failure is not None
    assert diverged.failure.kind == "NotFiniteError"
    assert "step" in diverged.failure.message
    assert "Traceback" in diverged.failure.traceback
    assert "FAILED" in printed
    assert "NotFiniteError" in (folder / "results" / "reports" / "question" / "report.md").read_text()


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker through /proc")
def test_a_worker_killed_whenever_it_starts_is_a_failure_and_does_not_stop_the_others(
    tmp_path: Path, write_workload: Callable[..., Path]
) -> None:
    workload = write_workload(optimisation__epochs=4000)  # long enough to be caught
    grid = tmp_path / "killed.yaml"
    grid.write_text(f"workload: {workload}\nsplit: validation\nseeds: [5]\nstrategies: [full_kd, no_kd]\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "run", str(grid), "--results", str(tmp_path / "results"), "--reports",
         str(tmp_path / "reports")], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline, killed = time.monotonic() + 240, 0
    while time.monotonic() < deadline and process.poll() is None:
        manifest = tmp_path / "results" / "killed" / "manifest.json"
        if manifest.exists():
            no_kd = json.loads(manifest.read_text())["trials"][1]["trial_id"]
            if (tmp_path / "results" / "trials" / no_kd / "record.json").exists():
                killed += _kill_trainable(process.pid)
        time.sleep(0.5)
    output, _ = process.communicate(timeout=60)
    assert killed >= 2, "a lost worker is tried once more"
    assert process.returncode == 1, output
    full_kd = read_manifest(tmp_path / "results" / "killed" / "manifest.json").trials[0].trial_id
    record = read_record(tmp_path / "results" / "trials" / full_kd / "record.json")
    assert record.status == "failed", output
    assert record.failure is not None
    assert record.failure.reason == "lost"
    assert "1 finished, 1 failed" in output


def _kill_trainable(driver: int) -> bool:
    """Kill the busiest training worker among a driver's descendants."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
            fields = rest.split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        if "ray::Implicit" in name:
            ticks[pid] = int(fields[11]) + int(fields[12])

    def descends(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    workers = [pid for pid in ticks if descends(pid) and ticks[pid] > 200]
    if not workers:
        return False
    os.kill(max(workers, key=lambda pid: ticks[pid]), signal.SIGKILL)
    return True


def test_results_that_are_a_file_are_refused(
    finished: tuple[Path, Path, str], tmp_path: Path, here: Callable[..., Any]
) -> None:
    grid, _, _ = finished
    (tmp_path / "results").write_text("not a folder")
    refused = f"harness: {tmp_path / 'results'} cannot be a results folder: it is a file\n"
    assert here("run", grid, "--results", tmp_path / "results") == (2, "", refused)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("grids/absent.yaml",), "no such file: grids/absent.yaml"),
        (("grids/position_axis.yaml", "--workload", "tny"), "unknown workload 'tny'. Did you mean 'tiny'?"),
        (
            ("grids/position_axis.yaml", "--only", "full kf"),
            "unknown strategy label 'full kf'. Did you mean 'Full KD'?",
        ),
        (("grids/position_axis.yaml", "--seeds", "one"), "--seeds takes whole numbers separated by commas"),
        (("grids/position_axis.yaml", "--seeds", "7"), "seed 7 is not one of the grid's: 1337, 1338, 1339"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], said: str, tmp_path: Path, here: Callable[..., Any]
) -> None:
    code, out, err = here("run", *arguments, "--results", tmp_path / "results", "--reports", tmp_path / "reports")
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in harness("run", tmp_path / "absent.yaml", "--debug").stderr
