"""Alpha-beta divergence: how much a large ratio of the rows counts, and how much a large probability, chosen apart."""

from jaxtyping import Float
from torch import Tensor

from strategies.criteria._alpha_beta import alpha_beta
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("ab_divergence", source="arXiv:2505.04560 (ABKD)", whole=True)
def ab_divergence(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], alpha: float, beta: float
) -> Float[Tensor, " N"]:
    """Compare each row by 1 / (alpha beta) sum_v (alpha p^s + beta q^s) / s - p^alpha q^beta, with s = alpha + beta.

    Forward and reverse KL are the limits at (1, 0) and (0, 1); (0.5, 0.5) is four times the squared Hellinger distance.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        alpha: above 0; 0.2 in the paper's runs on instructions.
        beta: above 0; 0.7.

    Returns:
        A number of at least 0; exactly 0 where the rows are equal.

    Provenance:
        Code: ABKD distillation_llm/distillm/losses.py ab_div; AMiD distillm/losses.py:5-45
        Deviation: without the limits at 0 of either exponent, which other criteria are
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    return alpha_beta(teacher_logprobs, student_logprobs, alpha=alpha, beta=beta)
