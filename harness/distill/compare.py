"""Rows compared: the losses of some positions from the logits of both models, or from the teacher's few classes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.data.tokens import Batch, sent
from harness.distill.objective import Objective
from harness.distill.score import Rows
from strategies.base import SparseTarget, log_probs, log_rest, pick
from strategies.noise import cells

# N = supervised positions, V = vocabulary of the student, W = of the teacher, K = classes kept, the tail included

# Told of every sparse target that is used, a chunk at a time.
OnTarget = Callable[[SparseTarget], None]


def row_losses(
    objective: Objective,
    rows: Rows,
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N W"] | None,
    *,
    on_target: OnTarget | None = None,
    target_of: Callable[..., SparseTarget | None] | None = None,
) -> Float[Tensor, " N"]:
    """Return lambda * T^2 * D(p, q) + (1 - lambda) * CE(y, q) for each row, or its first part where CE is everywhere.

    Both distributions of D are taken at temperature T, which may be the row's own, the cross-entropy at 1. A sparse
    target replaces p, and takes out of q the classes it has, without normalising q over them; `target_of` makes it, as
    `make_target` does, where the call is compiled.
    """
    kd_weight = objective.strategy.kd_weight
    supervised = kd_weight < 1.0 and objective.strategy.cross_entropy is None
    total: Tensor | None = None
    student_logprobs = log_probs(student_logits) if supervised else None
    if kd_weight > 0.0:
        temperature = temperature_of(objective, rows)
        target = (target_of or make_target)(objective, rows, teacher_logits)
        values = {"targets": rows.targets, **rows.signals}
        hot_student = heated(student_logits, temperature)
        # At temperature 1 they are the cross-entropy's too.
        shared = student_logprobs if hot_student is student_logits else None
        hot_logprobs = log_probs(hot_student) if shared is None else shared
        if target is not None:
            if on_target is not None:
                on_target(target)
            sparse = gather_rows(target, hot_logprobs)
            values["teacher_logprobs"], values["student_logprobs"] = sparse.teacher, sparse.student
        else:
            values["student_logits"], values["student_logprobs"] = hot_student, hot_logprobs
            if teacher_logits is not None:
                hot_teacher = heated(teacher_logits, temperature)
                values["teacher_logits"], values["teacher_logprobs"] = hot_teacher, log_probs(hot_teacher)
        total = kd_weight * temperature**2 * objective.compare(values)
    if supervised:
        assert student_logprobs is not None
        cross_entropy = -(1.0 - kd_weight) * pick(student_logprobs, rows.targets)
        total = cross_entropy if total is None else total + cross_entropy
    assert total is not None
    return total


def temperature_of(objective: Objective, rows: Rows) -> float | Float[Tensor, " N"]:
    """Return the temperature that rows are compared at: one number for all, or one per row."""
    if objective.temperature is not None:
        assert rows.temperature is not None, "computed with the scores"
        return rows.temperature.to(torch.promote_types(rows.student.dtype, torch.float32))
    assert isinstance(objective.strategy.temperature, float), "nothing is compared without a distillation loss"
    return objective.strategy.temperature


def heated(logits: Float[Tensor, "N V"], temperature: float | Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Return logits at a temperature; float32 at least where every row has its own."""
    if isinstance(temperature, Tensor):
        return logits / temperature[:, None]
    return logits if temperature == 1.0 else logits / temperature


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


@torch.no_grad()
def make_target(objective: Objective, rows: Rows, teacher_logits: Float[Tensor, "N V"] | None) -> SparseTarget | None:
    """Return the sparse target of some rows, a ready-made one as it is; None where rows are compared whole."""
    if rows.target is not None or objective.classes is None:
        return rows.target
    assert teacher_logits is not None
    return objective.reduce(log_probs(heated(teacher_logits, temperature_of(objective, rows))), rows.keys)


def row_keys(batch: Batch, places: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Return the noise key of positions of the flattened batch: of their place in the training text, not in the run."""
    length = batch.valid.shape[1]
    return cells(sent(batch.index, places.device)[places // length], places % length)


def gather_rows(target: SparseTarget, student_logprobs: Float[Tensor, "N V"]) -> SparseRows:
    """Pick the target's classes out of the student's rows, which stay normalised over the whole vocabulary."""
    student = student_logprobs.gather(-1, target.ids)
    if target.tail is not None:
        student = torch.cat([student, log_rest(student_logprobs, target.ids)[:, None]], dim=-1)
    return SparseRows(teacher=target.log_mass().to(student.dtype), student=student)
