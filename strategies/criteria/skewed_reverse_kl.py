"""Skewed reverse KL: the student against a mixture of both, so that no class costs more than a bounded amount."""

from jaxtyping import Float
from torch import Tensor

from strategies.criteria._mixture import check_share, kl_to_mixture
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("skewed_reverse_kl", source="arXiv:2402.03898 (DistiLLM), Section 3.1")
def skewed_reverse_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], alpha: float
) -> Float[Tensor, " N"]:
    """Compare each row by KL(q || alpha q + (1 - alpha) p).

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        alpha: the student's share of the mixture, in (0, 1); 0.1 in the paper. The limit at 0 is the reverse KL.

    Returns:
        Nats, in [0, -log alpha]; exactly 0 where the rows are equal.

    Provenance:
        Code: DistiLLM distillm/losses.py:80-95
        Deviation: none known
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    check_share("alpha of skewed_reverse_kl", alpha)
    return kl_to_mixture(student_logprobs, teacher_logprobs, 1.0 - alpha)
