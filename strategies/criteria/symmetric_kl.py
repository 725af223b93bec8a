"""Symmetric KL: the mean of the forward and the reverse direction, half of Jeffreys' divergence."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("symmetric_kl", source="Jeffreys (1946), halved")
def symmetric_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Compare each row by (KL(p || q) + KL(q || p)) / 2, so that its scale is that of one direction.

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: DistiLLM distillm/losses.py:26-30
        Deviation: equal weights, where that code's default is 0.9 for the reverse KL
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    gap = student_logprobs - teacher_logprobs
    return (expectation(student_logprobs, gap) - expectation(teacher_logprobs, gap)) / 2
