"""Concrete score distillation: match the differences between all pairs of logits, in time linear in the vocabulary."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("csd", source="arXiv:2509.25837 (CSD); reconstructed from the abstract", whole=True)
def csd(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], weights: str
) -> Float[Tensor, " N"]:
    """Compare each row by 1/2 sum_ij w_i w_j (d_i - d_j)^2, d being the teacher's logits less the student's.

    That is the variance of d under w, and it ignores a constant added to the logits, so log-probabilities do for them.
    Derived from what the paper's abstract says; its own equation and scale may differ. No gradient passes through w.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        weights: `teacher` (w = p, mode covering), `student` (w = q, mode seeking) or `uniform`.

    Returns:
        Squared nats, in [0, inf); exactly 0 where the rows are equal.
    """
    log_weight = _log_weight(weights, teacher_logprobs, student_logprobs.detach())
    # Left as inf - inf, a class without weight would turn the gradient of all others into nan.
    gap = (teacher_logprobs - student_logprobs).masked_fill(log_weight == -torch.inf, 0.0)
    centre = expectation(log_weight, gap)
    return expectation(log_weight, (gap - centre[:, None]).square())


def _log_weight(weights: str, teacher: Float[Tensor, "N V"], student: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    if weights == "teacher":
        return teacher
    if weights == "student":
        return student
    if weights == "uniform":
        return torch.zeros_like(teacher).masked_fill(teacher == -torch.inf, -torch.inf).log_softmax(dim=-1)
    raise ValueError(f"weights of csd must be teacher, student or uniform, not {weights!r}")
