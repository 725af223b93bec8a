"""What a trial costs: seconds by phase, peak memory by device, floating-point operations by part of the step."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from harness.distill.step import Tally
from harness.models import trunk

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


def reset_peak(device: str) -> None:
    """Forget the peak so far, so that a warm worker does not report an earlier trial's."""
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
