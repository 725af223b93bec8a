"""Acceptance: whether the teacher has the student's best guess among its own likeliest tokens."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("accepted", source="arXiv:2510.24021 (SelecTKD), greedy variant")
def accepted(
    *,
    teacher_logprobs: Float[Tensor, "N V"],
    student_logprobs: Float[Tensor, "N V"],
    num: int = 5,
    rejected: float = 0.0,
) -> Float[Tensor, " N"]:
    """Score each position by 1 where the student's likeliest token is among the teacher's `num` likeliest.

    As a weight that is 0 where it is not, the share of positions that a trial trains on is the paper's token acceptance
    rate, and stands in its curve and in the report's table of budgets.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        num: the teacher's likeliest tokens that count, 5 in the paper; all of a smaller vocabulary.
        rejected: the score elsewhere, in [0, 1]; the paper masks (0) or takes 0.01.

    Returns:
        1 or `rejected`.

    Provenance:
        Code: SimOPD src/simopd/topk_losses.py:825-839; SimOPD configs/arms.yaml:351-371
        Deviation: of the paper no code is public; read were its abstract and another project's account and code
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    proposed = student_logprobs.argmax(dim=-1, keepdim=True)
    likely = teacher_logprobs.topk(min(num, teacher_logprobs.shape[-1]), dim=-1).indices
    found = (likely == proposed).any(dim=-1).to(teacher_logprobs.dtype)
    return found + rejected * (1.0 - found)
