"""Teacher cross-entropy CE(y_t, p_t): how surprised the teacher is by the true next token."""

from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import pick
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("teacher_ce", source="arXiv:2602.01395 (SE-KD), Section 4")
def teacher_ce(*, teacher_logprobs: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by the teacher's loss on the data.

    Returns:
        -log p(y) in nats, in [0, inf).

    Provenance:
        Place: Table 1
        Code: none: not among the signals of the released code
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return -pick(teacher_logprobs, targets)
