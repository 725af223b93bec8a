"""The chunked loss: head, criterion and gradients of one chunk of rows before the next one exists.

A chunk's logits are computed by one matrix product, compared a few rows at a time, and overwritten by their own
gradient, which two more products turn into the gradients of hidden states and head. Neither logits nor their gradient
exist for more than a chunk, and numbers wider than the model's only for a sixteenth of one. Where there is only one
chunk, the head's gradient waits until the trunk's activations are gone.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from harness.distill.heat import heated, temperature_of
from harness.distill.objective import Objective
from harness.distill.score import Rows, pieces, slices
from harness.distill.sparse import OnTarget, gather_rows, make_target
from harness.models import Head
from harness.models.devices import PIECES
from strategies.base import log_probs, pick

# What turns rows into losses: `row_losses`, or the same compiled.
RowLosses = Callable[..., Tensor]
# Takes what a chunk adds to the head's gradient, as the two factors of a product: C rows of V classes and of D numbers.
AddToHead = Callable[[Tensor, Tensor], None]

# M = supervised positions, T = positions of the batch, D = a model's hidden size, V = vocabulary, C = rows at a time


@torch.no_grad()  # else the products of every chunk would be recorded, and its logits kept
def add_gradients(
    objective: Objective,
    rows: Rows,
    signals: dict[str, Float[Tensor, " M"]],
    coefficient: Float[Tensor, " M"],
    student_head: Head,
    teacher_head: Head | None,
    *,
    chunk: int,
    grad_hidden: Float[Tensor, "T D"] | None,
    add_to_head: AddToHead | None,
    losses: RowLosses | None = None,
    on_target: OnTarget | None = None,
) -> Float[Tensor, ""]:
    """Return sum_m coefficient_m * loss_m over supervised rows, and add its gradients where they are wanted.

    Args:
        objective: what is compared and how.
        rows: the supervised positions.
        signals: values of the signals that the criterion reads, at these rows.
        coefficient: weight of every row, its normaliser included.
        student_head: the student's head.
        teacher_head: the teacher's head, None where the loss does not read it.
        chunk: rows of logits that exist at a time.
        grad_hidden: takes the gradient of the student's hidden states, laid out as `rows.student`; None if not wanted.
        add_to_head: takes the head's gradient, chunk by chunk; None if not wanted.
        losses: `compiled_losses()`, or None for `row_losses`.
        on_target: told of every sparse target.

    Returns:
        The sum, float32 at least, without a graph.
    """
    wide = torch.promote_types(rows.student.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=rows.student.device)
    for block in slices(len(rows), chunk):
        part, weights = rows.part(block), coefficient[block]
        given = {name: values[block] for name, values in signals.items()}
        # A function of its own, so that nothing of one chunk is alive in the next.
        loss, grad_logits = _differentiate(
            objective,
            part,
            given,
            weights,
            student_head,
            teacher_head,
            chunk=chunk,
            losses=losses or row_losses,
            needs_grad=grad_hidden is not None or add_to_head is not None,
            on_target=on_target,
        )
        total += loss
        if grad_hidden is not None:
            rows.put(grad_hidden, block, student_head.pull_back(grad_logits))
        if add_to_head is not None:
            add_to_head(grad_logits, part.student)
        del grad_logits
    return total


def _differentiate(
    objective: Objective,
    rows: Rows,
    signals: dict[str, Float[Tensor, " M"]],
    coefficient: Float[Tensor, " M"],
    student_head: Head,
    teacher_head: Head | None,
    *,
    chunk: int,
    losses: RowLosses,
    needs_grad: bool,
    on_target: OnTarget | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "M V"]]:
    """Return the weighted loss of a chunk of rows and the gradient of its logits, which takes their place in memory."""
    with torch.no_grad():
        logits = student_head.logits(rows.student)
        teacher_logits = None
        if objective.loss_reads_teacher and rows.teacher is not None:
            assert teacher_head is not None
            teacher_logits = teacher_head.logits(rows.teacher)
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=logits.device)
    for piece in pieces(len(rows), chunk):
        given = {name: values[piece] for name, values in signals.items()}
        theirs = None if teacher_logits is None else teacher_logits[piece]
        leaf = logits[piece].detach().requires_grad_(needs_grad)
        with torch.set_grad_enabled(needs_grad):
            value = losses(objective, leaf, theirs, rows.part(piece), given, on_target=on_target)
            value = (value * coefficient[piece]).sum()
        total += value.detach()
        if needs_grad:
            (logits[piece],) = torch.autograd.grad(value, leaf)
        del value
    return total, logits


def add_product(
    grad_head: Float[Tensor, "V D"], grad_logits: Float[Tensor, "C V"], hidden: Float[Tensor, "C D"]
) -> None:
    """Add a chunk's head gradient to the sum; a product that is added to a wider sum is not rounded before."""
    if grad_head.dtype == hidden.dtype:
        grad_head.addmm_(grad_logits.T, hidden)
        return
    for classes in slices(len(grad_head), -(-len(grad_head) // PIECES)):
        part = grad_logits[:, classes].T
        if part.is_cuda:
            grad_head[classes] += torch.mm(part, hidden, out_dtype=grad_head.dtype)
        else:
            grad_head[classes].addmm_(part.to(grad_head.dtype), hidden.to(grad_head.dtype))


class HeadGradient:
    """Adds up the gradient of a model's head in the parameter's own gradient, without a second matrix of its size.

    A single chunk's product is put off until `finish`, which comes after the trunk's backward pass: the trunk's
    activations and the head's gradient then never exist at once. Where products of several chunks meet in a narrow
    dtype, they are added in a float32 matrix until `narrow`: a bfloat16 sum loses every addend below a 256th of it.
    """

    def __init__(self, model: PreTrainedModel, vocab_size: int, *, single: bool) -> None:
        """Begin with nothing added.

        Args:
            model: the student.
            vocab_size: rows of the head that are not padding.
            single: whether there is one chunk only.
        """
        parameter = model.get_output_embeddings().weight
        assert isinstance(parameter, torch.nn.Parameter)
        self._parameter, self._vocab_size, self._single = parameter, vocab_size, single
        self._wide: Tensor | None = None
        self._put_off: tuple[Tensor, Tensor] | None = None

    @property
    def wanted(self) -> bool:
        """Whether the head is trained."""
        return self._parameter.requires_grad

    def add(self, grad_logits: Float[Tensor, "C V"], hidden: Float[Tensor, "C D"]) -> None:
        """Add what a chunk contributes: the product of its logits' gradient and its hidden states."""
        if self._single:
            assert self._put_off is None, "one chunk was announced"
            self._put_off = grad_logits, hidden
            return
        if self._wide is None:
            own = self._own()
            wide = torch.promote_types(own.dtype, torch.float32)
            self._wide = own if own.dtype == wide else torch.zeros_like(own, dtype=wide)
        add_product(self._wide, grad_logits, hidden)

    def narrow(self) -> None:
        """Bring what chunks have added up to the parameter's own dtype, and let the wider sum go."""
        if self._wide is not None and self._wide.dtype != self._parameter.dtype:
            self._own().add_(self._wide)
        self._wide = None

    def finish(self) -> None:
        """Add what was put off. A trained head has a gradient then, of zeros if no row was supervised."""
        if not self.wanted:
            return
        own = self._own()
        if self._put_off is not None:
            add_product(own, *self._put_off)
            self._put_off = None

    def _own(self) -> Float[Tensor, "V D"]:
        if self._parameter.grad is None:
            self._parameter.grad = torch.zeros_like(self._parameter)
        return self._parameter.grad[: self._vocab_size]


def row_losses(
    objective: Objective,
    student_logits: Float[Tensor, "M V"],
    teacher_logits: Float[Tensor, "M W"] | None,
    rows: Rows,
    signals: dict[str, Float[Tensor, " M"]],
    *,
    on_target: OnTarget | None = None,
) -> Float[Tensor, " M"]:
    """Return lambda * T^2 * D(p, q) + (1 - lambda) * CE(y, q) for each row.

    Both distributions of D are taken at temperature T, which may be the row's own, the cross-entropy at 1. A sparse
    target replaces p, and takes out of q the classes it has, without normalising q over them.
    """
    kd_weight = objective.strategy.kd_weight
    total: Tensor | None = None
    student_logprobs = log_probs(student_logits) if kd_weight < 1.0 else None
    if kd_weight > 0.0:
        temperature = temperature_of(objective, rows)
        target = make_target(objective, rows, teacher_logits)
        values = {"targets": rows.targets, **signals}
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
    if kd_weight < 1.0:
        assert student_logprobs is not None
        cross_entropy = -(1.0 - kd_weight) * pick(student_logprobs, rows.targets)
        total = cross_entropy if total is None else total + cross_entropy
    assert total is not None
    return total


@functools.cache
def compiled_losses() -> RowLosses:
    """Return `row_losses` as kernels that torch.compile makes at their first use, for any number of rows."""
    made: RowLosses = torch.compile(row_losses, dynamic=True)
    return made


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
    """Return the same sum as `add_gradients`, differentiable in the student's hidden states and head.

    For a training loop that calls `backward` itself. Costs a second matrix of the head's size.
    """

    def run(grad_hidden: Tensor | None, grad_head: Tensor | None) -> Tensor:
        return add_gradients(
            objective,
            rows,
            signals,
            coefficient,
            student_head,
            teacher_head,
            chunk=chunk,
            grad_hidden=grad_hidden,
            add_to_head=None if grad_head is None else functools.partial(add_product, grad_head),
            on_target=on_target,
        )

    result = _Differentiable.apply(rows.student, student_head.weight, run)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


class _Differentiable(torch.autograd.Function):
    """A sum whose gradients are computed with it: backward only scales what forward left."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, run: Callable[[Tensor | None, Tensor | None], Tensor]
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        total = run(grad_hidden, grad_weight)
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (scale,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            None,
        )
