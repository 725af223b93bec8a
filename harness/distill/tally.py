"""Counts of what training did; what only the device knows stays there until it is read, so that nothing waits."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Counts that may be tensors until they are read.
UNREAD = ("supervised", "classes")


@dataclass(kw_only=True)
class Tally:
    """Counts of one step or of many: what was supervised and how many rows each head saw.

    Attributes:
        sequences: sequences seen.
        valid: positions with a target.
        supervised: positions with a non-zero weight; a tensor until it is read.
        classes: classes with a weight, over all rows compared with a sparse target; a tensor until it is read.
        student_scored: rows through the student's head without gradient.
        student_trained: rows through it with gradient.
        teacher_rows: rows through the teacher's head.
        projected: rows through each projection of hidden states, with gradient.
        trunk_passes: forward passes of the student's trunk without gradient, in sequences.
        teacher_passes: forward passes of the teacher's trunk, in sequences.
        rollouts: sequences that the student wrote.
        generated: tokens that it wrote, end-of-text tokens included.
        ended: sequences that it ended itself.
        rollout_positions: positions through its trunk for that, padding and rows that have ended included.
        rollout_attended: pairs of a position and one that it could look at, had nothing been masked.
        rollout_rows: rows through its head.
    """

    sequences: int = 0
    valid: int = 0
    supervised: Tensor | int = 0
    classes: Tensor | int = 0
    student_scored: int = 0
    student_trained: int = 0
    teacher_rows: int = 0
    projected: int = 0
    trunk_passes: int = 0
    teacher_passes: int = 0
    rollouts: int = 0
    generated: int = 0
    ended: int = 0
    rollout_positions: int = 0
    rollout_attended: int = 0
    rollout_rows: int = 0

    def add(self, other: "Tally") -> None:
        """Add another tally's counts to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def read(self) -> "Tally":
        """Return the counts as plain numbers."""
        return Tally(**{name: int(value) for name, value in vars(self).items()})


class Underway:
    """Numbers that a device has yet to compute; a reader waits for them, not for what the device was given since."""

    def __init__(self, *numbers: Tensor) -> None:
        """Let the device copy scalars to the host as soon as it has them, in the first one's dtype."""
        self._numbers, self._arrived = numbers, None
        if numbers[0].is_cuda:
            together = torch.stack([number.to(numbers[0]) for number in numbers])
            kept = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
            self._numbers = kept.copy_(together, non_blocking=True).unbind()
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[float, ...]:
        """Return the numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return tuple(float(number) for number in self._numbers)
