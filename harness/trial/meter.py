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
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedModel

from harness.config import Lora, ModelSource
from harness.distill.tally import Tally
from harness.models import trunk
from harness.models.shapes import shape_model

_GIB = 1 << 30


@dataclass(kw_only=True)
class Clock:
    """Seconds spent by phase; a phase entered twice adds up, one inside another counts for itself alone.

    Attributes:
        wall_s: seconds by phase's name.
        device: a GPU is waited for at the phase's end, so that its work counts where it was asked for.
    """

    device: str
    wall_s: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def state_dict(self) -> dict[str, float]:
        """Return the seconds so far, of phases that are not over too."""
        self._book()
        return dict(self.wall_s)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Add the seconds of an earlier attempt: what was spent twice counts twice."""
        for name, seconds in state_dict.items():
            self.wall_s[name] = self.wall_s.get(name, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block, also when it raises."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        """Charge the time since the last call to the innermost phase."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.wall_s[self._open[-1]] = self.wall_s.get(self._open[-1], 0.0) + now - self._since
        self._since = now


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
        self._paused = False
        self._live = 0
        self._known: set[int] = set()

    def state_dict(self) -> dict[str, int]:
        """Return the peak: a trial that goes on has its first step behind it."""
        return {"peak": self.peak}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the peak of an earlier attempt."""
        self.peak = state_dict["peak"]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the storages that are new in what it returns."""
        if self._paused:
            return func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            # An operation in place, or a view, returns a storage that was there already.
            if storage._cdata not in given and storage._cdata not in self._known:
                self._add(storage)
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what comes to life in a block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors among an operation's arguments or results, in order; asked for every operation of a step."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for branch in tree for tensor in tensors_in(branch)]


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


def _in_place_product(_: Any, left: Any, right: Any, **__: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


def _attention_on_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_on_cpu_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def flop_counter() -> FlopCounterMode:
    """Return torch's counter of matrix products, taught the two that it does not know.

    Without them the attention of a CPU would cost nothing and that of a GPU something, and a product added in place
    would be free.
    """
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten.addmm_: _in_place_product,
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_on_cpu_backward,
        },
    )


def count_trunk_flops(model: PreTrainedModel, sequence_length: int) -> float:
    """Count the floating-point operations of one sequence's forward pass through a trunk, matrix products only.

    Works on a model of fake tensors as on a real one.
    """
    parameter = next(model.parameters())
    shapes_only = parameter.fake_mode if isinstance(parameter, FakeTensor) else nullcontext()
    with torch.no_grad(), shapes_only, flop_counter() as counter:
        trunk(model, torch.zeros((1, sequence_length), dtype=torch.long, device=model.device))
    return float(counter.get_total_flops())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What counting needs to know of a model.

    Attributes:
        trunk_flops: operations of one sequence's forward pass through the trunk.
        backward_flops: of its backward pass.
        hidden_size: columns of the head.
        head_trained: whether the head's own gradient is computed.
    """

    trunk_flops: float
    backward_flops: float
    hidden_size: int
    head_trained: bool


@functools.cache
def shape_of(source: ModelSource, folder: Path, sequence_length: int, lora: Lora | None = None) -> Shape:
    """Count a model by its configuration alone; a grid asks for the same few models thousands of times."""
    model = shape_model(source, folder, lora=lora)
    forward = count_trunk_flops(model, sequence_length)
    return Shape(
        trunk_flops=forward,
        # One product for the input's gradient and one for the weight's, where every weight is trained.
        backward_flops=2.0 * forward if lora is None else _count_backward_flops(model, sequence_length),
        hidden_size=int(model.config.hidden_size),
        head_trained=lora is None or lora.head,
    )


def _count_backward_flops(model: PreTrainedModel, sequence_length: int) -> float:
    """Count one sequence's backward pass through a trunk of fake tensors, down to the weights that are trained.

    A fused backward pass of attention computes the scores anew, which is not counted anywhere.
    """
    model.set_attn_implementation("eager")
    trained = [parameter for parameter in model.base_model.parameters() if parameter.requires_grad]
    fake = trained[0]
    assert isinstance(fake, FakeTensor)
    with fake.fake_mode, flop_counter() as counter:
        hidden = trunk(model, torch.zeros((1, sequence_length), dtype=torch.long, device=model.device))
        forward = counter.get_total_flops()
        torch.autograd.grad(hidden, trained, torch.ones_like(hidden), allow_unused=True)
    return float(counter.get_total_flops() - forward)


def count_flops(
    tally: Tally,
    *,
    student_trunk: float,
    teacher_trunk: float,
    student_head: int,
    teacher_head: int,
    student_backward: float | None = None,
    head_trained: bool = True,
    projection: int = 0,
    recomputed: bool = False,
) -> dict[str, float]:
    """Turn a tally into floating-point operations by part, matrix products only.

    A multiply-add counts two. A backward pass costs twice its forward pass, one product for the input's gradient, one
    for the weight's, where all weights are trained.

    Args:
        tally: what the training counted.
        student_trunk: operations of one sequence's forward pass through the student's trunk.
        teacher_trunk: the same for the teacher.
        student_head: elements of the student's head matrix.
        teacher_head: elements of the teacher's.
        student_backward: operations of one sequence's backward pass through the student's trunk; twice the forward
            pass's if None.
        head_trained: whether the gradient of the student's head is computed.
        projection: elements of the projections of hidden states, 0 without that branch.
        recomputed: whether the student's trunk runs forward once more while its backward pass runs; an upper bound, as
            torch stops each layer before the last product.
    """
    passes = (1 + recomputed) * tally.sequences + tally.trunk_passes
    backward = 2.0 * student_trunk if student_backward is None else student_backward
    branch = {"feature_projection": 6.0 * projection * tally.projected} if projection else {}
    return branch | {
        "student_trunk": student_trunk * passes + backward * tally.sequences,
        "student_head_scoring": 2.0 * student_head * tally.student_scored,
        "student_head_training": (6.0 if head_trained else 4.0) * student_head * tally.student_trained,
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
