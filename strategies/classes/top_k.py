"""The teacher's most likely classes, the others left out: cheap, biased, and no divergence."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import SparseTarget
from strategies.registry import classes

# N = flattened positions, V = vocabulary


@classes(
    "top_k",
    source="arXiv:2503.16870 (RS-KD), the truncation it argues against",
    budget="num",
    criteria=("forward_kl",),
    because="the student's mass on the classes left out goes unseen, and other divergences would drive it there",
)
def top_k(*, teacher_logprobs: Float[Tensor, "N V"], num: int, renormalise: bool) -> SparseTarget:
    """Keep the `num` most likely classes; `top_k_tail` is the same with a bucket for the rest, and the better choice.

    The truncated sum of p log(p / q) is not a divergence: it can be negative, its minimum is not at q = p, and it
    inflates the kept classes, because mass that the student moves to them is never missed elsewhere.

    Args:
        teacher_logprobs: log p.
        num: classes kept, at most the vocabulary.
        renormalise: whether the kept weights are scaled to sum to 1. The sum is then a KL from a sharper teacher:
            never negative, but above 0 where the student equals the teacher.

    Provenance:
        Code: none: the paper's code is announced, not released
        Deviation: none known
        Test: tests/strategies/test_classes.py::test_a_truncated_sum_is_no_divergence
    """
    log_weight, ids = teacher_logprobs.topk(num, dim=-1)
    if renormalise:
        log_weight = log_weight.log_softmax(dim=-1)
    return SparseTarget(ids=ids, weight=log_weight.exp(), log_weight=log_weight)
