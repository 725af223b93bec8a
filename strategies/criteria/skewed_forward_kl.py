"""Skewed forward KL: the teacher against a mixture of both, so that no class costs more than a bounded amount."""

from jaxtyping import Float
from torch import Tensor

from strategies.criteria._mixture import check_share, kl_to_mixture
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("skewed_forward_kl", source="arXiv:2402.03898 (DistiLLM), Section 3.1")
def skewed_forward_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], alpha: float
) -> Float[Tensor, " N"]:
    """Compare each row by KL(p || alpha p + (1 - alpha) q).

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        alpha: the teacher's share of the mixture, in (0, 1); 0.1 in the paper. The limit at 0 is the forward KL.

    Returns:
        Nats, in [0, -log alpha]; exactly 0 where the rows are equal.

    Provenance:
        Code: DistiLLM distillm/losses.py:66-78
        Deviation: none known; the code leaves out the teacher's entropy, a constant
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    check_share("alpha of skewed_forward_kl", alpha)
    return kl_to_mixture(teacher_logprobs, student_logprobs, 1.0 - alpha)
