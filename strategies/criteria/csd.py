"""Concrete score distillation: match the differences between all pairs of logits, in time linear in the vocabulary."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("csd", source="arXiv:2509.25837 (CSD)", whole=True)
def csd(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], first: str, second: str
) -> Float[Tensor, " N"]:
    """Compare each row by 1/2 sum_ij w_i v_j (d_i - d_j)^2, d being the teacher's logits less the student's.

    Weights sum to 1, so that a constant added to the logits changes nothing and log-probabilities do for them. With
    e = d - sum w d the double sum is 1/2 (sum w e^2 + sum v e^2). No gradient passes through w and v.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        first: w: `teacher` (p), `student` (q) or `uniform`. The paper's pairs are (student, student), for GSM8K
            (teacher, student), and (uniform, student).
        second: v, of the same three.

    Returns:
        Squared nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: CSD task_agnostic_distillation/csd/losses.py csd; CSD task_agnostic_distillation/csd/losses.py
            csd_weighting_function
        Deviation: the paper's double sum, whose gradient is twice that of the code
        Test: tests/strategies/test_criteria.py::test_csd_is_the_authors_expression
    """
    weights = [_log_weight(each, teacher_logprobs, student_logprobs.detach()) for each in (first, second)]
    # Left as inf - inf, a class without weight would turn the gradient of all others into nan.
    idle = (weights[0] == -torch.inf) & (weights[1] == -torch.inf)
    gap = (teacher_logprobs - student_logprobs).masked_fill(idle, 0.0)
    square = (gap - expectation(weights[0], gap)[:, None]).square()
    return (expectation(weights[0], square) + expectation(weights[1], square)) / 2


def _log_weight(weights: str, teacher: Float[Tensor, "N V"], student: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    if weights == "teacher":
        return teacher
    if weights == "student":
        return student
    if weights == "uniform":
        return torch.zeros_like(teacher).masked_fill(teacher == -torch.inf, -torch.inf).log_softmax(dim=-1)
    raise ValueError(f"weights of csd must be teacher, student or uniform, not {weights!r}")
