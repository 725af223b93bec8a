"""Reverse KL(q || p): the student avoids what the teacher considers unlikely."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("reverse_kl", source="arXiv:2306.08543 (MiniLLM)")
def reverse_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Compare each row by sum_v q log(q / p).

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: DistiLLM distillm/losses.py:14-24
        Deviation: exact at every position of a given text; MiniLLM's is of whole sequences that the student writes, by
            policy gradients
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    return expectation(student_logprobs, student_logprobs - teacher_logprobs)
