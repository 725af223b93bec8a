"""Generalised Jensen-Shannon divergence: bounded, and between the forward and the reverse KL."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.criteria._mixture import check_share, kl_to_mixture, mixture_gain
from strategies.criteria.forward_kl import forward_kl
from strategies.criteria.reverse_kl import reverse_kl
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("jsd", source="arXiv:2306.13649 (GKD), Section 2")
def jsd(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], beta: float
) -> Float[Tensor, " N"]:
    """Compare each row by beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q.

    As beta goes to 0 this turns into beta times the forward KL, as it goes to 1 into 1 - beta times the reverse KL. At
    0 and 1 themselves, where it would vanish, those KLs are meant, as is usual: the scale jumps there.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        beta: the teacher's share of the mixture, in [0, 1]; 0.5 is the symmetric divergence.

    Returns:
        Nats, in [0, log 2] for beta in (0, 1); exactly 0 where the rows are equal.

    Provenance:
        Place: equation 1
        Code: TRL trl/trainer/gkd_trainer.py generalized_jsd_loss
        Deviation: none known; no official code, the lines are TRL's. At beta 0 and 1 both mean the KLs
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    if beta in (0.0, 1.0):
        limit = forward_kl if beta == 0.0 else reverse_kl
        return limit(teacher_logprobs=teacher_logprobs, student_logprobs=student_logprobs)
    check_share("beta of jsd, if neither 0 nor 1,", beta)
    # m minimises this sum, so its own derivative vanishes: what is left of the gradient is (1 - beta) log(q / m) dq.
    student = student_logprobs.detach()
    from_teacher = kl_to_mixture(teacher_logprobs, student, 1.0 - beta)
    from_student = -expectation(student_logprobs, mixture_gain(student, teacher_logprobs, beta))
    return beta * from_teacher + (1.0 - beta) * from_student
