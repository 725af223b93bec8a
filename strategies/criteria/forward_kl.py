"""Forward KL(p || q): the student covers everything the teacher considers likely."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("forward_kl", source="arXiv:1503.02531 (Hinton et al.)")
def forward_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Compare each row by sum_v p log(p / q).

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: SE-KD3x sekd/distill/_mixins/kd_core.py:9-19; DistiLLM distillm/losses.py:4-12
        Deviation: none known; DistiLLM's leaves out the teacher's entropy, a constant
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    return expectation(teacher_logprobs, teacher_logprobs - student_logprobs)
