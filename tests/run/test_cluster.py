"""A Ray cluster of two nodes on this machine: a grid runs on both, one is lost, and the grid ends as if neither was."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from test_prepare import ROWS, files

from harness.records.layout import Results
from harness.records.store import read_manifest, read_record
from harness.run.plan import make_plan
from harness.run.prepare import prepare_plan
from harness.teacher.kind import KINDS
from harness.trial.execute import run_trial

# Minutes on a small machine: `make test-faults`.
pytestmark = pytest.mark.faults

PROJECT = Path(__file__).parents[2]

# Nodes of one processor each, and of one GPU that Ray believes in; on stdin "cut" ends the second as a power cut would,
# "drain" says that it will be taken away in a minute, as the cloud does of a spot machine; the end of stdin ends all.
NODES = """
import sys, time
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1, num_gpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "cut":
        cluster.remove_node(other, allow_graceful=False)
    else:
        until_ms, reason = int(time.time() + 60) * 1000, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        accepted, why = GcsClient(address=cluster.address).drain_node(other.node_id, reason, "spot", until_ms)
        assert accepted, why
    print("done", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def nodes() -> Iterator[subprocess.Popen[str]]:
    """Two nodes; their address is the first line they print."""
    env = {**os.environ, "RAY_memory_monitor_refresh_ms": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    with process:  # closes its pipes, and waits for it
        yield process


def line(process: subprocess.Popen[str], wanted: str) -> str:
    """Read lines until one holds a text."""
    assert process.stdout is not None
    for text in process.stdout:
        if wanted in text:
            return text.strip()
    raise AssertionError(f"ended without {wanted!r}")


@pytest.mark.parametrize("end", ["cut", "drain"])
def test_a_grid_outlives_a_node(
    end: str,
    nodes: subprocess.Popen[str],
    write_workload: Callable[..., Path],
    write_grid: Callable[..., Path],
    tmp_path: Path,
) -> None:
    workload = write_workload(optimisation__epochs=400)
    grid = write_grid(["full_kd", "se_kd"], workload=str(workload), seeds=[1, 2])
    results, said = tmp_path / "results", tmp_path / "said.txt"
    address = line(nodes, ":")
    with said.open("w") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "run", str(grid), "--address", address, "--results", str(results),
             "--reports", str(tmp_path / "reports"), "--checkpoint-every", "20"],
            cwd=PROJECT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        # Two trials, so both nodes have one.
        while len(list((results / "checkpoints").glob("*/step-*"))) < 2:
            assert time.monotonic() < deadline, said.read_text()
            assert run.poll() is None, said.read_text()
            time.sleep(0.2)
        assert nodes.stdin is not None
        nodes.stdin.write(f"{end}\n")
        nodes.stdin.flush()
        line(nodes, "done")
        assert run.wait(300) == 0, said.read_text()
    manifest = read_manifest(results / "question" / "manifest.json")
    records = [read_record(results / "trials" / entry.trial_id / "record.json") for entry in manifest.trials]
    assert [record.status for record in records] == ["finished"] * 4
    hit = [record for record in records if record.history.attempts > 1]
    assert len(hit) == 1, "one trial was on the node"
    assert hit[0].history.resumed_at
    assert ("is being taken away: stopped after step" in hit[0].history.failures[0]) == (end == "drain")
    (trial,) = [each for each in make_plan(grid, Results(tmp_path / "elsewhere")).todo if each.id == hit[0].trial_id]
    alone = run_trial(trial, results=Results(results)).record
    assert hit[0].metrics == alone.metrics, "bit for bit"


@pytest.mark.parametrize("gpus", [0, 1])
def test_every_kind_of_cache_is_made_by_all_nodes(
    gpus: int,
    checkpoints: Path,
    nodes: subprocess.Popen[str],
    write_workload: Callable[..., Path],
    write_grid: Callable[..., Path],
    tmp_path: Path,
) -> None:
    text = tmp_path / "train.jsonl"
    text.write_text((checkpoints / "train.jsonl").read_text() * 6)
    # Two shards of scores and of prepasses, more of the others.
    size = {"data__sequence_length": 4, "data__train_tokens": 4352, "data__data_files__train": str(text),
            "optimisation__batch_size": 64, "optimisation__micro_batch_size": 16}  # fmt: skip
    workload = write_workload(resources__gpus=gpus, **size)
    grid = write_grid(ROWS, workload=str(workload), seeds=[1])
    results, alone = Results(tmp_path / "results"), Results(tmp_path / "alone")
    run = subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", str(grid), "--address", line(nodes, ":"),
         "--results", str(results.root), "--reports", str(tmp_path / "reports")],
        cwd=PROJECT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    plan = make_plan(grid, Results(tmp_path / "elsewhere"))
    prepare_plan(plan, alone, Console(quiet=True))
    assert {path.partition("-")[0] for path in files(alone)} == set(KINDS)
    assert files(results) == files(alone), "bit for bit"
    for what in ("teacher states, train", "teacher_entropy, train", "teacher draws, train",
                 "teacher's largest classes, train", "samples by kl, train"):  # fmt: skip
        assert f"2 processes make {what}." in run.stdout
    for trial in plan.todo[1::2]:
        together = read_record(results.record(trial.id))
        assert together.metrics == run_trial(trial, results=alone).record.metrics
