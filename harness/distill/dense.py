"""The dense flow: every logit of a batch at once, everything left to autograd.

It is what a straightforward implementation does: the memory baseline `full_kd_dense`, and the oracle that the chunked
flow is tested against.
"""

from jaxtyping import Float
from torch import Tensor

from harness.distill.loss import row_losses
from harness.distill.objective import Objective
from harness.distill.score import Rows
from harness.distill.sparse import OnTarget
from harness.models import Head

# M = positions, D = a model's hidden size


def dense_loss(
    objective: Objective,
    rows: Rows,
    signals: dict[str, Float[Tensor, " M"]],
    coefficient: Float[Tensor, " M"],
    student_head: Head,
    teacher_head: Head | None,
    *,
    on_target: OnTarget | None = None,
) -> Float[Tensor, ""]:
    """Return the sum of `add_gradients` as a graph, from logits at all rows; unselected rows have coefficient 0."""
    student_logits = student_head.logits(rows.student)
    teacher_logits = None
    if rows.teacher is not None:
        assert teacher_head is not None
        teacher_logits = teacher_head.logits(rows.teacher)
    losses = row_losses(objective, student_logits, teacher_logits, rows, signals, on_target=on_target)
    return (losses * coefficient).sum()
