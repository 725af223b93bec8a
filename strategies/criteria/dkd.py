"""DKD: the target part and the other classes' part of the KL, weighed apart and no longer tied by the teacher."""

from jaxtyping import Float, Int
from torch import Tensor

from strategies.criteria._gold_split import gold_split
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("dkd", source="arXiv:2203.08679 (DKD), equation 8")
def dkd(
    *,
    teacher_logprobs: Float[Tensor, "N V"],
    student_logprobs: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    alpha: float,
    beta: float,
) -> Float[Tensor, " N"]:
    """Compare each row by alpha TCKD + beta NCKD, split at the data's next token.

    The forward KL is TCKD + (1 - p(y)) NCKD: it hardly looks at the other classes where the teacher is sure.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        targets: the true next tokens.
        alpha: weight of the target part; 1 in the paper.
        beta: weight of the other classes' part; 8 in most of the paper's CIFAR-100 runs, which use temperature 4.

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: mdistiller mdistiller/distillers/DKD.py:8-32; mdistiller mdistiller/engine/cfg.py:162-167
        Deviation: the target is the next token; no cross-entropy beside it and no warm-up, which the code has
        Test: tests/strategies/test_criteria.py::test_dkd_with_the_teachers_own_weight_is_the_forward_kl
    """
    parts = gold_split(teacher_logprobs, student_logprobs, targets)
    return alpha * parts.tckd + beta * parts.nckd
