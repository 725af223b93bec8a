"""Processes that make caches: as many as there is room for, one task each, gone with their share."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from harness.config import Workload
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.run.builders import make_together
from harness.run.cluster import ray, session
from harness.run.guard import guarded
from harness.teacher.provide import Make

NODES = {"a": {"CPU": 4.0, "GPU": 2.0}, "b": {"CPU": 8.0, "GPU": 1.0}}


def never(numbers: Sequence[int]) -> None:
    pytest.fail(f"made {numbers}")


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [({"gpus": 1, "cpus": 16}, "16 threads"), ({"gpus": 1, "teacher_gpus": 3}, "3 GPUs"), ({"gpus": 0.5}, None)],
)
def test_what_no_machine_has_room_for_is_refused(
    resources: dict[str, float], wanted: str | None, workload_file: Path
) -> None:
    workload = with_resources(load_workload(str(workload_file)), **resources)
    nodes = NODES if wanted else {"a": {"CPU": 4.0}}
    with pytest.raises(UserError, match=rf"that makes states takes .*{wanted or '1 GPUs'}.* no machine has both"):
        make_together(workload, "states", never, [0], lambda: None, nodes=nodes, message=pytest.fail)


def test_on_a_cpu_one_process_would_be_no_faster(workload_file: Path) -> None:
    workload, nodes = load_workload(str(workload_file)), {"a": {"CPU": 1.0}, "b": {"CPU": 0.0}}
    make_together(workload, "states", never, [0, 1], lambda: None, nodes=nodes, message=pytest.fail)
    make_together(workload, "states", never, [0], lambda: None, nodes=NODES, message=pytest.fail)


def with_resources(workload: Workload, **changes: float) -> Workload:
    return workload.model_copy(update={"resources": workload.resources.model_copy(update=changes)})


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A Ray of this machine with room for three, and two GPUs that it only believes in."""
    scratch = Path(tempfile.mkdtemp(prefix="harness-"))
    with pytest.MonkeyPatch.context() as believing:
        believing.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
        with guarded(scratch), session(3, None, scratch):
            yield ray.get_runtime_context().get_node_id()


def make_in(folder: Path, *, ends: str = "") -> Make:
    """Return what writes of every shard who made it; a process that has shard 1 may end otherwise."""
    place = str(folder)

    def make(numbers: Sequence[int]) -> None:
        import os
        import signal
        from pathlib import Path

        import torch

        from harness.config.errors import UserError

        if 1 in numbers and not (ends == "once" and Path(place, "died").exists()):
            Path(place, "died").touch()
            if ends in ("once", "always"):
                os.kill(os.getpid(), signal.SIGKILL)
            if ends:
                raise {"refused": UserError, "broken": FloatingPointError}[ends]("why")
        for number in numbers:
            Path(place, f"shard-{number}").write_text(f"{os.getpid()} {torch.get_num_threads()}")

    return make


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 1])
def test_each_process_makes_its_share_and_ends(gpus: int, node: str, workload_file: Path, tmp_path: Path) -> None:
    said, looks, workload = list[str](), list[int](), with_resources(load_workload(str(workload_file)), gpus=gpus)
    nodes, num = {node: {"CPU": 3.0, "GPU": 2.0}}, 2 if gpus else 3
    make = make_in(tmp_path, ends="once")
    make_together(workload, "states", make, range(7), lambda: looks.append(1), nodes=nodes, message=said.append)
    assert said == [f"{num} processes make states."]
    assert looks
    made = [tuple(map(int, (tmp_path / f"shard-{number}").read_text().split())) for number in range(7)]
    pids = [pid for pid, _ in made]
    assert pids == [pids[number % num] for number in range(7)]
    assert len({*pids, os.getpid()}) == num + 1, "one process for each share, and none of them this one"
    assert {threads for _, threads in made} == {workload.resources.cpus}
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < deadline, "what holds memory of a GPU has to end"
        time.sleep(0.1)


@pytest.mark.slow
def test_how_a_process_ends_is_told(node: str, workload_file: Path, tmp_path: Path) -> None:
    nodes, tiny = {node: {"CPU": 2.0, "GPU": 1.0}}, load_workload(str(workload_file))
    on_gpu = with_resources(tiny, gpus=1)

    def made(workload: Workload, ends: str) -> list[str]:
        said = list[str]()
        make = make_in(tmp_path, ends=ends)
        make_together(workload, "states", make, [0, 1], lambda: None, nodes=nodes, message=said.append)
        return said

    assert made(tiny, "always") == [
        "2 processes make states.", "A process that made states was lost (WorkerCrashedError)."
    ]  # fmt: skip
    assert (tmp_path / "shard-0").exists()
    assert not (tmp_path / "shard-1").exists(), "left to the driver"
    with pytest.raises(
        UserError, match=r"that made states was lost \(WorkerCrashedError\), twice; what was made is kept"
    ):
        made(on_gpu, "always")
    with pytest.raises(UserError, match=r"^why$"):
        made(on_gpu, "refused")
    with pytest.raises(FloatingPointError, match=r"^why$"):
        made(on_gpu, "broken")
