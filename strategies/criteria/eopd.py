"""EOPD: reverse KL, and the forward KL on top of it where the teacher is undecided."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.criteria.forward_kl import forward_kl
from strategies.criteria.reverse_kl import reverse_kl
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("eopd", source="arXiv:2603.07079 (EOPD)", whole=True)
def eopd(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], threshold: float
) -> Float[Tensor, " N"]:
    """Compare each row by KL(q || p) + [H(p) > threshold] KL(p || q).

    Both divergences are exact sums over the vocabulary, where the paper estimates on the student's own text.

    Args:
        teacher_logprobs: log p. With a temperature, H is that of the softened distribution.
        student_logprobs: log q.
        threshold: nats; 0.8 in the paper.

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: none: the authors' repository (WLS04/EOPD) was not to be had
        Deviation: exact sums over the vocabulary, on a given text
        Test: tests/strategies/test_criteria.py::test_eopd_adds_the_forward_kl_where_the_teacher_is_undecided_only
    """
    rows = {"teacher_logprobs": teacher_logprobs, "student_logprobs": student_logprobs}
    undecided = -expectation(teacher_logprobs, teacher_logprobs) > threshold
    return reverse_kl(**rows) + forward_kl(**rows).masked_fill(~undecided, 0.0)
