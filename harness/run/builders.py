"""Caches, scores and prepasses made by processes that end: as many as a machine's GPUs, or a cluster, have room for."""

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.config import Workload, plugins
from harness.config.errors import UserError
from harness.records.layout import Results
from harness.run.cluster import ray, session
from harness.run.guard import guarded
from harness.run.limits import available_cpus
from harness.teacher.provide import Make, Spread

_SECONDS_BETWEEN_LOOKS = 1.0
# A lost process is started once more, elsewhere, before its share is left unmade.
_RETRIES = 1


@contextmanager
def spreading(
    workload: Workload, results: Results, *, address: str | None, message: Callable[[str], None]
) -> Iterator[Spread | None]:
    """Have caches made by processes that end, so that this one never holds a model on a GPU.

    None where this process makes them as fast alone: on the CPU of one machine. Ray starts when it is first needed, and
    stops at the block's end.

    Args:
        workload: the workload.
        results: the results folder.
        address: of a running Ray cluster; a Ray of this machine alone if None.
        message: told what becomes of the processes.
    """
    if address is None and workload.resources.gpus == 0:
        yield None
        return
    with ExitStack() as stack:

        @functools.cache
        def start() -> None:
            scratch = Path(tempfile.mkdtemp(prefix="harness-"))
            stack.enter_context(guarded(scratch))
            stack.enter_context(session(available_cpus(), address, scratch))

        def spread(what: str, make: Make, numbers: Sequence[int], waiting: Callable[[], None]) -> None:
            start()
            # Machines that only share a mirror have folders of their own: what they made would not be here.
            nodes = _nodes(alone=address is not None and results.mirror is not None)
            make_together(workload, what, make, numbers, waiting, nodes=nodes, message=message)

        yield spread


def make_together(
    workload: Workload,
    what: str,
    make: Make,
    numbers: Sequence[int],
    waiting: Callable[[], None],
    *,
    nodes: Mapping[str, Mapping[str, float]],
    message: Callable[[str], None],
) -> None:
    """Have processes make shards, each its share in a task of its own; on a CPU, what a lost one leaves is not made.

    Args:
        workload: whose resources say what a process occupies.
        what: is made, in words.
        make: makes shards, by number.
        numbers: the shards.
        waiting: called every second.
        nodes: what each machine has, by Ray's names and numbers.
        message: told of processes, and of those that are lost.

    Raises:
        UserError: no machine has room for a process with a GPU, or one was lost for good; or one met bad input.
        FloatingPointError: a model gives no numbers.
    """
    wanted = {"CPU": float(workload.resources.cpus)}
    if workload.resources.gpus > 0:
        wanted["GPU"] = float(max(workload.resources.teacher_gpus, 1))
    room = {node: int(min(there.get(name, 0) // num for name, num in wanted.items())) for node, there in nodes.items()}
    num = min(sum(room.values()), len(numbers))
    if num < 2 and "GPU" not in wanted:
        return
    if num < 1:
        raise UserError(
            f"a process that makes {what} takes {wanted['CPU']:g} threads (resources.cpus) and {wanted['GPU']:g} GPUs "
            "(resources.teacher_gpus), and no machine has both: lower them in the workload"
        )
    if num > 1:
        message(f"{num} processes make {what}.")
    places = sorted((rank, node) for node, processes in room.items() for rank in range(processes))
    at, lost = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy, ""
    left = [
        _make.options(
            num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0), scheduling_strategy=at(node, soft=True)
        ).remote(plugins.as_config(), workload.resources.cpus, make, numbers[rank::num])
        for rank, (_, node) in enumerate(places[:num])
    ]
    try:
        while left:
            done, left = ray.wait(left, num_returns=len(left), timeout=_SECONDS_BETWEEN_LOOKS)
            waiting()
            for each in done:
                try:
                    ray.get(each)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, UserError | FloatingPointError) else error from None
                except ray.exceptions.RayError as error:
                    lost = f"a process that made {what} was lost ({type(error).__name__})"
                    message(f"{lost[0].upper()}{lost[1:]}.")
    finally:
        for each in left:
            ray.cancel(each, force=True)
    if lost and "GPU" in wanted:
        raise UserError(f"{lost}, twice; what was made is kept: the same command goes on from there")


def _nodes(*, alone: bool) -> dict[str, dict[str, float]]:
    """Return what every machine of the session has, or this one `alone`, by node."""
    own = ray.get_runtime_context().get_node_id()
    there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {own: there[own]} if alone else there


# A process ends with its one call: where GPUs are asked for by `.options`, Ray keeps it, and what it holds on them.
@ray.remote(max_retries=_RETRIES, max_calls=1)
def _make(loaded: Sequence[Mapping[str, Any]], num_threads: int, make: Make, numbers: Sequence[int]) -> None:
    plugins.load_config(loaded)
    torch.set_num_threads(num_threads)
    make(numbers)
