"""A trial of two processes through Ray: one of them is killed, and the trial ends as if nothing had been."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config import installed, plugins
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.records.layout import Results
from harness.records.store import read_record
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.run.schedule import run_trials, second_attempt
from harness.run.watchers import Failed, Watcher
from harness.trial.execute import run_trial

PROJECT = Path(__file__).parents[2]
SHARED = {"resources__data_parallel": 2, "resources__shard_student": True}

# The student's entropy; but the second process dies at its second look, once.
MORTAL = '''"""A signal that ends a process."""

import os
import signal as signals
from pathlib import Path

import torch.distributed as dist

from strategies.base import expectation
from strategies.registry import signal

MARK, LOOKS = Path(__file__).with_name("died"), []


@signal("mortal", source="a test")
def mortal(*, student_logprobs):
    """The student's entropy."""
    if dist.is_initialized() and dist.get_rank() == 1 and not MARK.exists():
        LOOKS.append(1)
        if len(LOOKS) == 2:
            MARK.touch()
            os.kill(os.getpid(), signals.SIGKILL)
    return -expectation(student_logprobs, student_logprobs)
'''


def harness(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def plugin_and_grid(signal: str, source: str, workload: Path) -> tuple[Path, Path]:
    """Write a signal's file and a grid of one trial that ranks by it, beside the workload."""
    plugin, grid = workload.with_name(f"{signal}.py"), workload.with_name("two.yaml")
    plugin.write_text(source, encoding="utf-8")
    position = {"signal": signal, "policy": "top_k", "budget": 0.3}
    entries = [{"preset": "se_kd", "label": signal, "position": position}]
    fields = {"workload": str(workload), "split": "validation", "seeds": [5], "strategies": entries}
    grid.write_text("# Two processes.\n" + yaml.safe_dump(fields), encoding="utf-8")
    return plugin, grid


@pytest.mark.faults
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("sharded", [False, True])
def test_a_trial_goes_on_when_one_of_its_processes_is_killed(
    sharded: bool, write_workload: Callable[..., Path], tmp_path: Path, forget_plugins: None
) -> None:
    workload = write_workload(resources__data_parallel=2, resources__shard_student=sharded)
    plugin, grid = plugin_and_grid("mortal", MORTAL, workload)
    results = tmp_path / "results"
    ran = harness("run", grid, "--plugin", plugin, "--results", results, "--reports", tmp_path / "reports",
                  "--checkpoint-every", 1)  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert plugin.with_name("died").exists()
    (entry,) = json.loads((results / "two" / "manifest.json").read_text())["trials"]
    record = read_record(results / "trials" / entry["trial_id"] / "record.json")
    assert record.history.attempts == 2
    assert record.history.resumed_at == (1,)
    assert "RankLostError: process 0 of 2 lost the others" in record.history.failures[0]
    assert not (results / "checkpoints" / entry["trial_id"]).exists()

    # One process, here, undisturbed.
    plugins.load_plugins([plugin])
    (trial,) = make_plan(grid, Results(tmp_path / "elsewhere")).todo
    assert trial.id == entry["trial_id"], "how many processes there are is no part of what is computed"
    alone = run_trial(trial, results=Results(results)).record
    assert record.metrics.keys() == alone.metrics.keys()
    assert record.metrics["teacher_kl"].value == pytest.approx(alone.metrics["teacher_kl"].value, rel=1e-5)
    assert record.selection == alone.selection
    assert record.cost.flops == alone.cost.flops
    assert ("step" in record.cost.peak_gib) != sharded


# The student's entropy; but the second process of a trial cannot read this file.
SHY = '''"""A signal that one process of a trial does not get."""

from pathlib import Path

from strategies.base import expectation
from strategies.registry import signal

with Path(__file__).with_name("reads").open("a+") as reads:
    reads.write("x")
    reads.seek(0)
    if len(reads.read()) == 3:  # the command, the trial's first process, its second
        raise ImportError("not for the second")


@signal("shy", source="a test")
def shy(*, student_logprobs):
    """The student's entropy."""
    return -expectation(student_logprobs, student_logprobs)
'''


@pytest.mark.faults
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_a_process_that_refuses_its_trial_says_why_at_once(write_workload: Callable[..., Path], tmp_path: Path) -> None:
    plugin, grid = plugin_and_grid("shy", SHY, write_workload(resources__data_parallel=2))
    ran = harness("run", grid, "--plugin", plugin, "--results", tmp_path / "results", "--reports", tmp_path / "reports")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (entry,) = json.loads((tmp_path / "results" / "two" / "manifest.json").read_text())["trials"]
    record = read_record(tmp_path / "results" / "trials" / entry["trial_id"] / "record.json")
    assert record.failure is not None
    assert record.failure.reason == "input"
    assert "not for the second" in record.failure.message
    assert record.history.attempts == 1


# The student's entropy; but the second process runs out of memory in micro-batches of two sequences. The first one then
# waits for its part of a sum, or, as where a device waits, never comes back to notice.
HUNGRY = '''"""A signal that is too large for one process."""

import time

import torch
import torch.distributed as dist

from strategies.base import expectation
from strategies.registry import signal


@signal("hungry", source="a test")
def hungry(*, student_logprobs, noise):
    """The student's entropy."""
    if dist.is_initialized() and len(noise) > LENGTH:
        if dist.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if STUCK:
            time.sleep(600)
    return -expectation(student_logprobs, student_logprobs)
'''


@pytest.mark.faults
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("stuck", [False, True])
def test_a_process_without_memory_is_the_cause_and_the_second_attempt_takes_less(
    stuck: bool, write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    workload = write_workload(resources__data_parallel=2)
    length = load_workload(str(workload)).data.sequence_length
    source = HUNGRY.replace("LENGTH", str(length)).replace("STUCK", str(stuck))
    plugin, grid = plugin_and_grid("hungry", source, workload)
    results = tmp_path / "results"
    ran = harness("run", grid, "--plugin", plugin, "--results", results, "--reports", tmp_path / "reports")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    cause = "MemoryError: another process of the trial: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert cause in " ".join((ran.stdout + ran.stderr).split())
    (entry,) = json.loads((results / "two" / "manifest.json").read_text())["trials"]
    history = read_record(results / "trials" / entry["trial_id"] / "record.json").history
    assert history.attempts == 2
    assert history.failures == (cause,)
    assert history.micro_batch_sizes == (1,)


def test_more_processes_than_the_machine_has_are_refused(
    write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    optimisation = {"optimisation__batch_size": 512, "optimisation__micro_batch_size": 1, "data__train_tokens": 32768}
    workload = write_workload(resources__data_parallel=512, **optimisation)
    plan = make_plan(write_grid(["full_kd"], workload=str(workload)), Results(tmp_path / "results"))
    with pytest.raises(UserError, match=r"512 processes \(resources.data_parallel\) of 1 threads"):
        run_trials(plan, Results(tmp_path / "results"), Watcher(), Options())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resources__data_parallel": 3}, "each process needs one"),
        ({"resources__data_parallel": 2, "resources__gpus": 0.5}, "must be whole"),
        ({"resources__data_parallel": 0}, "greater than"),
        ({"resources__shard_student": True}, "resources.data_parallel is 1"),
        (SHARED | {"optimisation__batch_size": 6}, "3 micro-batches are not as many for each of 2"),
        (SHARED | {"lora": {"rank": 2, "alpha": 4}}, "trained in full"),
        (SHARED | {"optimisation__optimiser": "adamw_8bit"}, "set optimisation.optimiser to adamw"),
    ],
)
def test_processes_that_cannot_share_a_trial_are_refused(
    changes: dict[str, Any], reason: str, write_workload: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=reason):
        load_workload(str(write_workload(**changes)))


def test_a_sharded_student_never_has_8_bit_states(
    write_workload: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "eight_bit", lambda: ("torchao.optim", "AdamW8bit"))
    if_available = {"optimisation__optimiser": "adamw_8bit_if_available"}
    for changes, found in (({}, "adamw_8bit"), (SHARED, "adamw")):
        assert load_workload(str(write_workload(**if_available, **changes))).optimisation.optimiser == found


@pytest.mark.parametrize(("sharded", "size"), [(False, 6), (True, 5)])
def test_a_second_attempt_has_micro_batches_for_all_processes(
    sharded: bool, size: int, write_workload: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    optimisation = {"data__train_tokens": 4096, "optimisation__batch_size": 30, "optimisation__micro_batch_size": 15}
    workload = write_workload(**SHARED | {"resources__shard_student": sharded}, **optimisation)
    (trial, *_) = make_plan(write_grid(["full_kd"], workload=str(workload)), Results(tmp_path / "results")).todo
    again = second_attempt(trial, {trial.id: Failed(reason="memory", line="no room")})
    assert again is not None
    assert again.workload.optimisation.micro_batch_size == size
    assert (trial.workload.evaluation.batch_size, again.workload.evaluation.batch_size) == (4, 2)
    assert again.id == trial.id


@pytest.mark.parametrize(
    ("entry", "fields", "reason"),
    [
        ("full_kd", {"diagnostics": {"every": 2}}, "diagnostics look at a whole batch"),
        (
            {"preset": "gkd_on_policy", "rollout": {"prompt_tokens": 4}},
            {},
            "a global batch is generated in one process",
        ),
    ],
)
def test_what_looks_at_whole_batches_is_refused(
    entry: object,
    fields: dict[str, object],
    reason: str,
    write_workload: Callable[..., Path],
    write_grid: Callable[..., Path],
    tmp_path: Path,
) -> None:
    workload = write_workload(resources__data_parallel=2)
    with pytest.raises(UserError, match=reason):
        make_plan(write_grid([entry], workload=str(workload), **fields), Results(tmp_path / "results"))
