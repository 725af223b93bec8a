"""Squared Hellinger distance: bounded and symmetric, with a gradient that is smooth where the rows meet."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("squared_hellinger", source="Hellinger (1909); the training form of AdaKD's token difficulty, our addition")
def squared_hellinger(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Compare each row by sum_v (sqrt p - sqrt q)^2 / 2. Squared, because the distance has no gradient at 0.

    Returns:
        A number without unit, in [0, 1]; exactly 0 where the rows are equal.

    Provenance:
        Code: none: a definition
        Deviation: AdaKD measures difficulty with the distance and does not train on it
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    roots = (teacher_logprobs / 2).exp() - (student_logprobs / 2).exp()
    return roots.square().sum(dim=-1) / 2
