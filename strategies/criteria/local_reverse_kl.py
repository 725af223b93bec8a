"""Reverse KL on a few likely classes, both models normalised over them: agreement within a local support."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion(
    "local_reverse_kl", source="arXiv:2603.25562 (local support matching); supports of arXiv:2604.13016", whole=True
)
def local_reverse_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], support: str, num: int
) -> Float[Tensor, " N"]:
    """Compare each row by KL(q' || p'), q' and p' being q and p on the support, each normalised over it.

    How much mass either model has outside goes unseen, and the student is free to move some there: `top_k_tail` with
    the reverse KL is the same with that mass as one more class.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        support: the `num` likeliest classes of the `teacher`, of the `student`, those of both (`intersection`), or of
            either (`union`).
        num: at least 1; all of a smaller vocabulary. 32 for the teacher's in the first paper.

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal, and where the support is empty.

    Provenance:
        Code: LSM verl/trainer/ppo/core_algos.py:867-1035; OPD verl/verl/workers/fsdp_workers.py:1830-1905
        Deviation: without what the first paper has around it (top-p roll-outs, special tokens left out); the second
            takes rewards on its supports, weighed by the student's probabilities as they are
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    if num < 1:
        raise ValueError(f"num of local_reverse_kl is a number of classes, at least 1; it is {num}")
    kept = _support(support, teacher_logprobs, student_logprobs.detach(), num)
    some = kept.any(dim=-1)
    # An empty support is replaced by all classes, so that no gradient is nan, and then left out.
    outside = ~kept & some[:, None]
    student, teacher = (
        each.masked_fill(outside, -torch.inf).log_softmax(dim=-1) for each in (student_logprobs, teacher_logprobs)
    )
    return expectation(student, student - teacher).where(some, 0.0)


def _support(
    support: str, teacher: Float[Tensor, "N V"], student: Float[Tensor, "N V"], num: int
) -> Bool[Tensor, "N V"]:
    theirs, ours = (
        torch.zeros_like(each, dtype=torch.bool).scatter_(-1, each.topk(min(num, each.shape[-1]), dim=-1).indices, True)
        for each in (teacher, student)
    )
    known = {"teacher": theirs, "student": ours, "intersection": theirs & ours, "union": theirs | ours}
    if support not in known:
        raise ValueError(f"support of local_reverse_kl must be {', '.join(known)}, not {support!r}")
    return known[support]
