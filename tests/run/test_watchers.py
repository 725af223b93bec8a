"""What a run says where nobody watches: a line a minute, and no more."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harness.records.layout import Results
from harness.run.plan import make_plan
from harness.run.prepare import lines
from harness.run.watchers import TerminalWatcher


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at its only element."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_running_trial_says_how_far_it_is_every_minute(
    clock: list[float], write_grid: Callable[..., Path], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    workload = write_workload()
    grid = write_grid(["se_kd"], workload=str(workload), seeds=[1])
    (trial,) = make_plan(grid, Results(tmp_path / "results")).todo
    console = Console(record=True, width=200, force_terminal=False, quiet=False)
    watcher = TerminalWatcher(console=console, total=1)
    watcher.started(trial)
    for step in range(301):  # a step a second
        watcher.advanced(trial, step, 600, 1.25)
        clock[0] += 1.0
    said = console.export_text().splitlines()
    tokens = trial.workload.optimisation.batch_size * trial.workload.data.sequence_length
    assert said[0] == f"{trial.name}: step 60 of 600, loss 1.2500, {tokens:,} tokens/s; about 9 min left"
    assert [line.split("step ")[1].split()[0] for line in said] == ["60", "120", "180", "240", "300"]


def test_what_is_built_says_how_far_it_is_every_minute(clock: list[float]) -> None:
    console = Console(record=True, width=200, force_terminal=False)
    show = lines(console)
    for done in range(130):
        show("teacher's hidden states", done, 200)
        clock[0] += 1.0
    assert console.export_text().splitlines() == [
        "teacher's hidden states: 60 of 200; about 2 min left",
        "teacher's hidden states: 120 of 200; about 80 s left",
    ]
