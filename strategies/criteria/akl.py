"""AKL: forward KL as far as the student errs on the teacher's likely classes, reverse KL as far as on the others."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.criteria.forward_kl import forward_kl
from strategies.criteria.reverse_kl import reverse_kl
from strategies.cumulative import UNIT, cumulate
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("akl", source="arXiv:2404.02657 (AKL), Section 4", whole=True)
def akl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], head: float
) -> Float[Tensor, " N"]:
    """Compare each row by w KL(p || q) + (1 - w) KL(q || p), w being the head's share of sum_v |p - q|.

    The head is the most likely classes while their mass stays within `head`, the first one always, and all that are as
    likely as its last one, so that w does not depend on the order of the vocabulary. No gradient passes through w.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        head: mass of the head, in (0, 1]; 0.5 in the paper.

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: AKL AKL.py:1-46
        Deviation: classes that tie with the head's last one are in the head, where the code's sort decides
        Test: tests/strategies/test_criteria.py::test_akls_head_holds_all_classes_as_likely_as_its_last
    """
    if not 0.0 < head <= 1.0:
        raise ValueError(f"head of akl must be in (0, 1], it is {head:g}")
    rows = {"teacher_logprobs": teacher_logprobs, "student_logprobs": student_logprobs}
    share = _head_share(teacher_logprobs.exp(), student_logprobs.detach().exp(), head)
    return share * forward_kl(**rows) + (1.0 - share) * reverse_kl(**rows)


def _head_share(p: Float[Tensor, "N V"], q: Float[Tensor, "N V"], head: float) -> Float[Tensor, " N"]:
    """Return the head's share of the error, 1/2 where there is none."""
    falling = p.sort(dim=-1, descending=True).values
    # The slack keeps a head of 1 whole, whose mass may round to above 1.
    count = (cumulate(falling) <= int((head + 1e-6) / UNIT)).sum(dim=-1, keepdim=True).clamp(min=1)
    least = falling.gather(-1, count - 1)
    error = (p - q).abs()
    total = error.sum(dim=-1)
    within = error.masked_fill(p < least, 0.0).sum(dim=-1)
    return (within / total).where(total > 0, torch.full_like(total, 0.5))
