"""Hellinger distance between teacher and student: AdaKD's token difficulty."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("hellinger", source="arXiv:2510.11615 (AdaKD), token difficulty")
def hellinger(*, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by sqrt(1/2 sum_v (sqrt p - sqrt q)^2).

    Returns:
        A distance in [0, 1]; symmetric, exactly 0 where the rows are equal.

    Provenance:
        Code: AdaKD loss/losses.py:425-427
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    roots = (teacher_logprobs / 2).exp() - (student_logprobs / 2).exp()
    return (roots.square().sum(dim=-1) / 2).sqrt()
