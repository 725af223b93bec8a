"""What to change where a trial does not fit, with the peak that each change would give."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from harness.config import Method, Workload
from harness.cost.accounting import GIB
from harness.cost.forecast.gpus import GPUS, Gpu, usable_gib
from harness.cost.forecast.memory import Footprint, changed, footprint

# Processes that a student may be shared out among, fewest first.
_PROCESSES = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing to change.

    Attributes:
        what: the setting, as it is written.
        gib: the peak it gives.
        fits: whether that is enough.
    """

    what: str
    gib: float
    fits: bool


def changes_that_help(strategy: Method, workload: Workload, found: Footprint, gpu: Gpu) -> tuple[Change, ...]:
    """Try what lowers a trial's peak without changing what it computes but for rounding, and 8-bit states.

    Args:
        strategy: what does not fit.
        workload: what it is applied to.
        found: what it takes as it is.
        gpu: what it should fit.

    Returns:
        Each setting that lowers the peak on its own, all of them together, the fewest GPUs that the student can be
        shared out among, and the smallest GPU that holds the trial as it is.
    """
    settings, resources = workload.optimisation, workload.resources
    tried: dict[str, object] = {}
    if settings.micro_batch_size > 1:
        tried["optimisation__micro_batch_size"] = 1
    if not resources.checkpoint_activations:
        tried["resources__checkpoint_activations"] = True
    if settings.optimiser == "adamw" and not resources.shard_student:
        tried["optimisation__optimiser"] = "adamw_8bit"
    room = usable_gib(gpu)

    def change(what: str, taken: Footprint) -> Change:
        return Change(what=what, gib=taken.total / GIB, fits=taken.total / GIB <= room)

    changes = [
        change(_written(key, value), footprint(strategy, changed(workload, **{key: value})))
        for key, value in tried.items()
    ]
    cached = strategy.model_copy(update={"teacher": "cached"})
    could_be_cached = strategy.teacher == "online" and (strategy.feature is None or strategy.feature.layers == "last")
    if could_be_cached:
        changes.append(change("teacher: cached", footprint(cached, workload)))
    lowest = footprint(cached if could_be_cached else strategy, changed(workload, **tried))
    if len(changes) > 1:
        changes.append(change("all of these", lowest))
    shared_out = (
        change(
            f"resources.shard_student: true on {each.resources.data_parallel} GPUs (resources.data_parallel)",
            footprint(strategy, each),
        )
        for each in _sharded(strategy, workload)
    )
    changes += islice((each for each in shared_out if each.fits), 1)
    helpful = [each for each in changes if each.gib < found.total / GIB]
    larger = sorted(
        (other.memory_gib, name)
        for name, other in GPUS.items()
        if usable_gib(other) * GIB >= found.total and other.tflops[resources.dtype]
    )
    if larger:
        helpful.append(Change(what=f"--gpu {larger[0][1]}", gib=found.total / GIB, fits=True))
    return tuple(helpful)


def _sharded(strategy: Method, workload: Workload) -> Iterator[Workload]:
    """Yield the ways to share a student out, fewest processes first; none where it is already, or cannot be."""
    settings = workload.optimisation
    micro_batches = settings.batch_size // settings.micro_batch_size
    if workload.resources.shard_student or workload.lora is not None or settings.optimiser == "adamw_8bit":
        return
    if strategy.rollout is not None:
        return  # a global batch is generated in one process
    for processes in _PROCESSES:
        if micro_batches % processes == 0 and processes >= workload.resources.data_parallel:
            yield changed(workload, resources__data_parallel=processes, resources__shard_student=True)


def _written(key: str, value: object) -> str:
    section, _, name = key.partition("__")
    return f"{section}.{name}: {str(value).lower()}"
