"""Sparse targets: the teacher's row reduced to a few classes, and the student's row laid beside it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.data.tokens import Batch
from harness.distill.heat import heated, temperature_of
from harness.distill.objective import Objective
from harness.distill.score import Rows
from strategies.base import SparseTarget, log_probs, log_rest
from strategies.noise import cells

# B = sequences, L = positions, N = supervised positions, V = vocabulary, K = classes kept, the tail included

# Told of every target that is used, a chunk at a time.
OnTarget = Callable[[SparseTarget], None]


@dataclass(frozen=True, kw_only=True)
class SparseRows:
    """Two rows over the kept classes, as a criterion reads them.

    Attributes:
        teacher: log of the target's masses, -inf for a place that is unused.
        student: log-probabilities under the full vocabulary; the last column is everything else if there is a tail.
    """

    teacher: Float[Tensor, "N K"]
    student: Float[Tensor, "N K"]


@dataclass(kw_only=True)
class ClassCount:
    """How many classes have a weight, over the targets it was told of; added up where they are, without waiting."""

    total: Tensor | int = 0

    def add(self, target: SparseTarget) -> None:
        """Count one target's classes."""
        self.total = self.total + (target.weight > 0).sum()


# Its noise relies on integers that wrap, which generated kernels refuse.
@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def make_target(objective: Objective, rows: Rows, teacher_logits: Float[Tensor, "N V"] | None) -> SparseTarget | None:
    """Return the sparse target of some rows, None where rows are compared whole.

    Args:
        objective: names the class policy and the temperature.
        rows: the rows; a ready-made target passes through.
        teacher_logits: None where targets come ready-made.
    """
    if rows.target is not None or objective.classes is None:
        return rows.target
    assert teacher_logits is not None
    return objective.reduce(log_probs(heated(teacher_logits, temperature_of(objective, rows))), rows.keys)


def row_keys(batch: Batch, places: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Return the noise key of positions of the flattened batch: of their place in the training text, not in the run."""
    length = batch.valid.shape[1]
    return cells(batch.index.to(places.device)[places // length], places % length)


def gather_rows(target: SparseTarget, student_logprobs: Float[Tensor, "N V"]) -> SparseRows:
    """Pick the target's classes out of the student's rows, which stay normalised over the whole vocabulary."""
    student = student_logprobs.gather(-1, target.ids)
    if target.tail is not None:
        student = torch.cat([student, log_rest(student_logprobs, target.ids)[:, None]], dim=-1)
    return SparseRows(teacher=target.log_mass().to(student.dtype), student=student)
