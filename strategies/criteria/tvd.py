"""Total variation distance: half the absolute difference of probabilities, so that no class can dominate."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("tvd", source="arXiv:2307.15190 (f-DISTILL), total variation distance")
def tvd(*, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Compare each row by sum_v |p - q| / 2; the gradient of a class is that of q / 2, up or down, however far p is.

    Returns:
        A share of probability (not nats), in [0, 1]; exactly 0 where the rows are equal.

    Provenance:
        Code: f-DISTILL chat/kd.py:94-105; f-DISTILL chat/kd.py:263-266
        Deviation: on one given text; the code averages losses on the student's text and on the given one
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    return (teacher_logprobs.exp() - student_logprobs.exp()).abs().sum(dim=-1) / 2
