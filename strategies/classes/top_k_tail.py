"""The teacher's most likely classes and one bucket for all others: a coarser distribution, but a whole one."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import SparseTarget, log_rest
from strategies.registry import classes

# N = flattened positions, V = vocabulary


@classes("top_k_tail", source="arXiv:2503.16870 (RS-KD), ghost token", budget="num")
def top_k_tail(*, teacher_logprobs: Float[Tensor, "N V"], num: int) -> SparseTarget:
    """Keep the `num` most likely classes, and the remaining mass P as one class that the student meets with its own.

    Both rows are distributions over `num` + 1 classes, so every divergence stays one: at least 0, exactly 0 where
    student and teacher are equal, and, for the forward and the reverse KL, at most that of the full rows. How the
    student spreads its mass within the tail goes unsupervised.

    Args:
        teacher_logprobs: log p.
        num: classes kept, at most the vocabulary; with the whole vocabulary there is no tail.

    Provenance:
        Code: none: the paper's code is announced, not released
        Deviation: none known
        Test: tests/strategies/test_classes.py::test_a_tail_bucket_loses_divergence_but_never_adds_or_turns_negative
    """
    log_weight, ids = teacher_logprobs.topk(num, dim=-1)
    if num == teacher_logprobs.shape[-1]:
        return SparseTarget(ids=ids, weight=log_weight.exp(), log_weight=log_weight)
    log_tail = log_rest(teacher_logprobs, ids)
    return SparseTarget(ids=ids, weight=log_weight.exp(), tail=log_tail.exp(), log_weight=log_weight, log_tail=log_tail)
