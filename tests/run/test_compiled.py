"""`resources.compile: true` compiles: in every step, over trials in one process, resumed and sharded ones alike."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "count_compiled.py"
ENTRIES = ["full_kd", {"preset": "full_kd", "criterion": "reverse_kl", "label": "reverse"}]


def started(*arguments: object) -> subprocess.Popen[str]:
    # -P: beside the script lies tests/strategies.
    command = [sys.executable, "-P", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def counted(process: subprocess.Popen[str]) -> list[list[int]]:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines()]


def test_every_step_is_compiled_over_many_criteria_and_where_training_goes_on(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_workload(resources__compile=True, optimisation__epochs=4, optimisation__micro_batch_size=4, seeds=[1])
    per_trial = counted(started(write_grid(ENTRIES, workload=str(file)), tmp_path / "results"))
    assert len(per_trial) == len(ENTRIES)
    for counts in per_trial:
        assert len(counts) == 10
        assert counts[0] > 0
        assert len({*counts}) == 1, "step 0, step 9 and those after it went on alike"


@pytest.mark.slow
def test_a_sharded_students_steps_are_compiled(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"resources__data_parallel": 2, "resources__shard_student": True, "seeds": [1]}
    file = write_workload(resources__compile=True, optimisation__epochs=4, **changes)
    grid = write_grid(ENTRIES, workload=str(file))
    ranks = [started(grid, tmp_path / "results", rank, tmp_path / "meeting") for rank in range(2)]
    per_trial, _ = (counted(process) for process in ranks)
    assert [len(counts) for counts in per_trial] == [12, 12]
    for counts in per_trial:
        assert counts[0] > 0
        assert len({*counts}) == 1
