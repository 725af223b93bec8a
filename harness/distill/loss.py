"""The chunked loss: head, criterion and gradients of one chunk of rows before the next one exists.

The gradient of a chunk is computed while its logits are alive, in the forward pass, so that neither logits nor their
gradient ever exist for more than a chunk; backward only scales what forward left.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harness.distill.objective import Objective
from harness.distill.score import Rows, slices
from harness.distill.sparse import OnTarget, gather_rows, make_target
from harness.models import Head
from strategies.base import log_probs, pick

# M = supervised positions, D = a model's hidden size, V = vocabulary

# (logits of a chunk, which rows) -> one loss per row
RowLosses = Callable[[Float[Tensor, "C V"], slice], Float[Tensor, " C"]]


def weighted_loss(
    objective: Objective,
    rows: Rows,
    signals: dict[str, Float[Tensor, " M"]],
    coefficient: Float[Tensor, " M"],
    student_head: Head,
    teacher_head: Head | None,
    *,
    chunk: int,
    on_target: OnTarget | None = None,
) -> Float[Tensor, ""]:
    """Return sum_m coefficient_m * loss_m over supervised rows, differentiable in hidden states and head.

    Args:
        objective: what is compared and how.
        rows: the supervised positions; `rows.student` carries the graph of the student's trunk.
        signals: values of the signals that the criterion reads, at these rows.
        coefficient: weight of every row, its normaliser included.
        student_head: the student's head, a view of its parameter.
        teacher_head: the teacher's head, None where the loss does not read it.
        chunk: rows of logits that exist at a time.
        on_target: told of every chunk's sparse target.
    """

    def losses(student_logits: Tensor, piece: slice) -> Tensor:
        given = {name: values[piece] for name, values in signals.items()}
        part = rows.part(piece)
        return row_losses(objective, student_logits, part, given, teacher_head, on_target=on_target)

    result = _ChunkedSum.apply(  # type: ignore[no-untyped-call]
        rows.student, student_head.weight, coefficient, losses, chunk
    )
    assert isinstance(result, Tensor)
    return result


def row_losses(
    objective: Objective,
    student_logits: Float[Tensor, "M V"],
    rows: Rows,
    signals: dict[str, Float[Tensor, " M"]],
    teacher_head: Head | None,
    *,
    on_target: OnTarget | None = None,
) -> Float[Tensor, " M"]:
    """Return lambda * T^2 * D(p, q) + (1 - lambda) * CE(y, q) for each row.

    Both distributions of D are taken at temperature T, the cross-entropy at 1. A sparse target replaces p, and takes
    out of q the classes it has, without normalising q over them.
    """
    temperature, kd_weight = objective.strategy.temperature, objective.strategy.kd_weight
    total: Tensor | None = None
    student_logprobs = log_probs(student_logits) if temperature == 1.0 or kd_weight < 1.0 else None
    if kd_weight > 0.0:
        target = make_target(objective, rows, teacher_head)
        values = {"targets": rows.targets, **signals}
        hot_student = objective.heated(student_logits)
        hot_logprobs = (
            student_logprobs if temperature == 1.0 and student_logprobs is not None else log_probs(hot_student)
        )
        if target is not None:
            if on_target is not None:
                on_target(target)
            sparse = gather_rows(target, hot_logprobs)
            values["teacher_logprobs"], values["student_logprobs"] = sparse.teacher, sparse.student
        else:
            values["student_logits"], values["student_logprobs"] = hot_student, hot_logprobs
            if objective.loss_reads_teacher:
                hot_teacher = objective.heated(_teacher_logits(rows, teacher_head))
                values["teacher_logits"], values["teacher_logprobs"] = hot_teacher, log_probs(hot_teacher)
        total = kd_weight * temperature**2 * objective.compare(values)
    if kd_weight < 1.0:
        assert student_logprobs is not None
        cross_entropy = -(1.0 - kd_weight) * pick(student_logprobs, rows.targets)
        total = cross_entropy if total is None else total + cross_entropy
    assert total is not None
    return total


@torch.no_grad()
def _teacher_logits(rows: Rows, teacher_head: Head | None) -> Tensor:
    assert rows.teacher is not None
    assert teacher_head is not None
    return rows.teacher @ teacher_head.weight.T


def _accumulate(grad_weight: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
    """Add a chunk's head gradient to the sum, which is float32 where the chunk is bfloat16.

    A bfloat16 sum would stop growing after a few hundred chunks.
    """
    if grad_weight.dtype == hidden.dtype:
        grad_weight.addmm_(grad_logits.T, hidden)
    else:
        grad_weight += grad_logits.T @ hidden


class _ChunkedSum(torch.autograd.Function):
    """sum_m coefficient_m * losses(hidden @ weight.T)_m, gradients taken chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, coefficient: Tensor, losses: RowLosses, chunk: int) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = (
            torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) if needs_weight else None
        )
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for piece in slices(len(hidden), chunk):
            logits = (hidden[piece] @ weight.T).requires_grad_()
            with torch.enable_grad():
                value = (losses(logits, piece) * coefficient[piece]).sum()
            total += value.detach()
            if not (needs_hidden or needs_weight):
                continue
            (grad_logits,) = torch.autograd.grad(value, logits)
            if grad_hidden is not None:
                torch.mm(grad_logits, weight, out=grad_hidden[piece])
            if grad_weight is not None:
                _accumulate(grad_weight, grad_logits, hidden[piece])
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (scale,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            None,
            None,
            None,
        )
