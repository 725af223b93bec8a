"""Cross-entropy with the data: no teacher, the supervised fine-tuning control."""

from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import pick
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("cross_entropy", source="maximum likelihood; the SFT control")
def cross_entropy(*, student_logprobs: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each row by -log q(y).

    Returns:
        Nats, in [0, inf).

    Provenance:
        Code: none: a definition
        Deviation: none known
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    return -pick(student_logprobs, targets)
