"""The chunked loss: head, criterion and gradients of one chunk of rows before the next one exists.

A chunk's logits are computed by one matrix product, compared a few rows at a time, and overwritten by their own
gradient, which two more products turn into the gradients of hidden states and head. Neither logits nor their gradient
exist for more than a chunk, and numbers wider than the model's only for a sixteenth of one. Where there is only one
chunk, the head's gradient waits until the trunk's activations are gone.

The dense flow computes every logit of a batch at once and leaves everything to autograd, as a straightforward
implementation does: it is the memory baseline `full_kd_dense`, and the oracle that the chunked flow is tested against.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.distill.compare import OnTarget, make_target, row_losses
from harness.distill.objective import Objective
from harness.distill.score import Rows, pieces, slices
from harness.models import Head
from harness.models.devices import PIECES

# What turns rows into losses: `row_losses`, or the same compiled.
RowLosses = Callable[..., Tensor]
# Takes what a chunk adds to the head's gradient, as the two factors of a product: C rows of V classes and of D numbers.
AddToHead = Callable[[Tensor, Tensor], None]

# M = supervised positions, T = positions of the batch, D = a model's hidden size, V = vocabulary, C = rows at a time


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Supervised rows, and what turns them into a loss: the sum over them of coefficient times row loss.

    Attributes:
        objective: what is compared and how.
        rows: the supervised positions, with their coefficients and the signals that the criterion reads.
        student_head: the student's head.
        teacher_head: the teacher's head, None where the loss does not read it.
        chunk: rows of logits that exist at a time.
        losses: `row_losses`, or `compiled_losses()`.
        on_target: told of every sparse target.
    """

    objective: Objective
    rows: Rows
    student_head: Head
    teacher_head: Head | None
    chunk: int
    losses: RowLosses = row_losses
    on_target: OnTarget | None = None

    def part(self, rows: slice) -> "Compared":
        """Return some of the rows."""
        return replace(self, rows=self.rows.part(rows))

    def teacher_logits(self) -> Float[Tensor, "M W"] | None:
        """Apply the teacher's head where the loss reads it."""
        if not self.objective.loss_reads_teacher or self.rows.teacher is None:
            return None
        assert self.teacher_head is not None
        return self.teacher_head.logits(self.rows.teacher)

    def weighted(
        self, rows: Rows, student_logits: Float[Tensor, "C V"], teacher_logits: Float[Tensor, "C W"] | None
    ) -> Float[Tensor, ""]:
        """Return the sum over some rows, as a graph."""
        assert rows.coefficient is not None, "supervised rows are weighed"
        losses = self.losses(self.objective, rows, student_logits, teacher_logits, on_target=self.on_target)
        return (losses * rows.coefficient).sum()


@torch.no_grad()  # else the products of every chunk would be recorded, and its logits kept
def add_gradients(
    compared: Compared, *, grad_hidden: Float[Tensor, "T D"] | None, add_to_head: AddToHead | None
) -> Float[Tensor, ""]:
    """Return the loss, float32 at least, without a graph, and add its gradients where they are wanted.

    Args:
        compared: what the loss is of.
        grad_hidden: takes the gradient of the student's hidden states, laid out as `rows.student`; None if not wanted.
        add_to_head: takes the head's gradient, chunk by chunk; None if not wanted.
    """
    rows = compared.rows
    wide = torch.promote_types(rows.student.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=rows.student.device)
    needs_grad = grad_hidden is not None or add_to_head is not None
    for block in slices(len(rows), compared.chunk):
        part = compared.part(block)
        # A function of its own, so that nothing of one chunk is alive in the next.
        loss, grad_logits = _differentiate(part, needs_grad=needs_grad)
        total += loss
        if grad_hidden is not None:
            rows.put(grad_hidden, block, compared.student_head.pull_back(grad_logits))
        if add_to_head is not None:
            add_to_head(grad_logits, part.rows.student)
        del grad_logits
    return total


def _differentiate(compared: Compared, *, needs_grad: bool) -> tuple[Float[Tensor, ""], Float[Tensor, "C V"]]:
    """Return the loss of a chunk of rows and the gradient of its logits, which takes their place in memory."""
    rows = compared.rows
    with torch.no_grad():
        logits = compared.student_head.logits(rows.student)
        teacher_logits = compared.teacher_logits()
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=logits.device)
    for piece in pieces(len(rows), compared.chunk):
        theirs = None if teacher_logits is None else teacher_logits[piece]
        leaf = logits[piece].detach().requires_grad_(needs_grad)
        with torch.set_grad_enabled(needs_grad):
            value = compared.weighted(rows.part(piece), leaf, theirs)
        total += value.detach()
        if needs_grad:
            (logits[piece],) = torch.autograd.grad(value, leaf)
        del value
    return total, logits


def dense_loss(compared: Compared) -> Float[Tensor, ""]:
    """Return the loss as a graph, from logits at all rows; unselected rows have coefficient 0."""
    student_logits = compared.student_head.logits(compared.rows.student)
    return compared.weighted(compared.rows, student_logits, compared.teacher_logits())


def weighted_loss(compared: Compared) -> Float[Tensor, ""]:
    """Return the loss, differentiable in the student's hidden states and head.

    For a training loop that calls `backward` itself. Costs a second matrix of the head's size.
    """

    def run(grad_hidden: Tensor | None, grad_head: Tensor | None) -> Tensor:
        add_to_head = None if grad_head is None else functools.partial(add_product, grad_head)
        return add_gradients(compared, grad_hidden=grad_hidden, add_to_head=add_to_head)

    result = _Differentiable.apply(compared.rows.student, compared.student_head.weight, run)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def compiled_losses() -> RowLosses:
    """Return `row_losses` as kernels that torch.compile makes at their first use, for any number of rows.

    What this process has compiled before is forgotten: of one function so many variants are kept, and the criteria of a
    grid are more; the rest would run uncompiled, without a word.
    """
    torch._dynamo.reset()
    # Its noise relies on integers that wrap, which generated kernels refuse.
    target_of = torch.compiler.disable(make_target)

    def losses(*arguments: Any, **options: Any) -> Tensor:
        return row_losses(*arguments, target_of=target_of, **options)

    compiled: RowLosses = torch.compile(losses, dynamic=True)
    return compiled


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
        """Begin with nothing added; rows of the head beyond `vocab_size` are padding, `single` announces one chunk."""
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
