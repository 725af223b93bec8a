"""What a trial costs: seconds by phase, peak memory by device, floating-point operations by part of the step."""

import ctypes
import functools
import gc
import resource
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from harness.config import ModelSource
from harness.distill.step import Tally
from harness.models import shape_model, trunk

_GIB = 1 << 30


@dataclass(kw_only=True)
class Clock:
    """Seconds spent by phase; a phase entered twice adds up.

    Attributes:
        wall_s: seconds by phase's name.
        device: a GPU is waited for at the phase's end, so that its work counts where it was asked for.
    """

    device: str
    wall_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
            self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - started


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that come to life inside it, and the most that were alive at once.

    Unlike a process's resident set this does not depend on the allocator, on what else the process did, or on the
    machine: the same step gives the same number. Tensors that existed before (weights, optimiser state) do not count.

    Attributes:
        peak: the largest sum of live bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the storages that are new in what it returns."""
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            # An operation in place, or a view, returns a storage that was there already.
            if storage._cdata not in given and storage._cdata not in self._known:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)

        def freed() -> None:
            self._known.discard(key)
            self._live -= size

        weakref.finalize(storage, freed)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def reset_peak(device: str) -> None:
    """Forget the peak so far, so that a warm worker does not report an earlier trial's."""
    # What earlier trials left in reference cycles, and what the allocator keeps of it, is not this trial's.
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    clear = Path("/proc/self/clear_refs")
    if sys.platform == "linux" and clear.exists():
        try:
            clear.write_text("5")
        except PermissionError:
            # A container may forbid it; the peak is then that of the worker's whole life, an upper bound.
            return


def peak_gib(device: str) -> dict[str, float]:
    """Return peak memory since `reset_peak`, GiB: of the worker process (resident set) and of the GPU (allocated)."""
    found = {"process": _peak_resident_bytes() / _GIB}
    if device.startswith("cuda"):
        found["cuda"] = torch.cuda.max_memory_allocated(device) / _GIB
    return found


def _peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def count_trunk_flops(model: PreTrainedModel, sequence_length: int) -> float:
    """Count the floating-point operations of one sequence's forward pass through a trunk, matrix products only.

    Works on a model of fake tensors as on a real one.
    """
    parameter = next(model.parameters())
    shapes_only = parameter.fake_mode if isinstance(parameter, FakeTensor) else nullcontext()
    with torch.no_grad(), shapes_only, FlopCounterMode(display=False) as counter:
        trunk(model, torch.zeros((1, sequence_length), dtype=torch.long, device=model.device))
    return float(counter.get_total_flops())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What counting needs to know of a model.

    Attributes:
        trunk_flops: operations of one sequence's forward pass through the trunk.
        hidden_size: columns of the head.
    """

    trunk_flops: float
    hidden_size: int


@functools.cache
def shape_of(source: ModelSource, folder: Path, sequence_length: int) -> Shape:
    """Count a model by its configuration alone; a grid asks for the same few models thousands of times."""
    model = shape_model(source, folder)
    return Shape(trunk_flops=count_trunk_flops(model, sequence_length), hidden_size=int(model.config.hidden_size))


def count_flops(
    tally: Tally,
    *,
    student_trunk: float,
    teacher_trunk: float,
    student_head: int,
    teacher_head: int,
) -> dict[str, float]:
    """Turn a tally into floating-point operations by part, matrix products only.

    A multiply-add counts two. A backward pass costs twice its forward pass: one product for the input's gradient, one
    for the weight's.

    Args:
        tally: what the training counted.
        student_trunk: operations of one sequence's forward pass through the student's trunk.
        teacher_trunk: the same for the teacher.
        student_head: elements of the student's head matrix.
        teacher_head: elements of the teacher's.
    """
    return {
        "student_trunk": 3 * student_trunk * tally.sequences + student_trunk * tally.trunk_passes,
        "student_head_scoring": 2.0 * student_head * tally.student_scored,
        "student_head_training": 6.0 * student_head * tally.student_trained,
        "teacher_trunk": teacher_trunk * tally.teacher_passes,
        "teacher_head": 2.0 * teacher_head * tally.teacher_rows,
    }


def count_prepass_flops(
    *,
    num_sequences: int,
    num_positions: int,
    student_trunk: float,
    student_head: int,
    teacher_trunk: float,
    teacher_head: int,
) -> dict[str, float]:
    """Return the operations of scoring every training sequence once, by part; 0 for a part that is not run.

    Args:
        num_sequences: training sequences.
        num_positions: their valid positions.
        student_trunk: operations of one sequence's forward pass through the student's trunk.
        student_head: elements of the student's head matrix.
        teacher_trunk: as for the student; 0 where the teacher's states come from a cache.
        teacher_head: as for the student.
    """
    return {
        "prepass_student_trunk": student_trunk * num_sequences,
        "prepass_student_head": 2.0 * student_head * num_positions,
        "prepass_teacher_trunk": teacher_trunk * num_sequences,
        "prepass_teacher_head": 2.0 * teacher_head * num_positions,
    }
