"""A teacher cache built by all GPUs of a machine or a cluster at once, through Ray: each makes some of its shards."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from harness.config import Workload
from harness.config.errors import UserError
from harness.records.layout import Results
from harness.run.guard import guarded
from harness.run.session import available_cpus, ray, session
from harness.teacher.inputs import Part, build_part
from harness.teacher.store import Spread

_SECONDS_BETWEEN_LOOKS = 1.0
# A process that is lost is started once more elsewhere before its share is left to the one that waits.
_RETRIES = 1


def spreading(
    workload: Workload, results: Results, *, address: str | None, said: Callable[[str], None]
) -> Callable[[Part], Spread] | None:
    """Return what spreads the building of a cache; None where this process builds as fast alone.

    Args:
        workload: the workload.
        results: where the cache is, for every process.
        address: of a running Ray cluster; a Ray of this machine alone if None.
        said: told what becomes of the processes.
    """
    alone = address is None and (workload.resources.gpus == 0 or torch.cuda.device_count() < 2)
    # Machines that only share a mirror have folders of their own.
    apart = address is not None and results.mirror is not None
    if alone or apart or workload.teacher is None:
        return None

    def of(part: Part) -> Spread:
        def spread(numbers: Sequence[int], waiting: Callable[[], None]) -> None:
            scratch = Path(tempfile.mkdtemp(prefix="harness-"))
            with guarded(scratch), session(available_cpus(), address, scratch):
                build_together(part, numbers, waiting, cache=results.resolved().cache, said=said)

        return spread

    return of


def build_together(
    part: Part, numbers: Sequence[int], waiting: Callable[[], None], *, cache: Path, said: Callable[[str], None]
) -> None:
    """Have the processes that a session's cluster holds make shards; what a lost one leaves is not made.

    Args:
        part: the cache.
        numbers: the shards.
        waiting: called every second.
        cache: folder of caches, as every process sees it.
        said: told of processes that are lost.

    Raises:
        UserError: one of them met bad input.
    """
    resources, there = part.workload.resources, ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if resources.gpus > 0 else 0
    each_gpus = max(resources.teacher_gpus, 1) if gpus else 0
    num = min(gpus // each_gpus if gpus else int(there.get("CPU", 0)) // resources.cpus, len(numbers))
    if num < 2:
        return
    said(f"{num} processes build the teacher's cache.")
    build = _build.options(num_cpus=resources.cpus, num_gpus=each_gpus, scheduling_strategy="SPREAD")
    left = [build.remote(part, numbers[rank::num], str(cache)) for rank in range(num)]
    try:
        while left:
            done, left = ray.wait(left, num_returns=len(left), timeout=_SECONDS_BETWEEN_LOOKS)
            waiting()
            for each in done:
                try:
                    ray.get(each)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, UserError) else error from None
                except ray.exceptions.RayError as error:
                    said(f"A process that built the teacher's cache was lost ({type(error).__name__}).")
    finally:
        for each in left:
            ray.cancel(each, force=True)


@ray.remote(max_retries=_RETRIES)
def _build(part: Part, numbers: Sequence[int], cache: str) -> None:
    torch.set_num_threads(part.workload.resources.cpus)
    build_part(part, numbers, cache=Path(cache))
