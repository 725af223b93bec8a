"""Student cross-entropy CE(y_t, q_t): how surprised the student is by the true next token."""

from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import pick
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("student_ce", source="arXiv:2602.01395 (SE-KD), Section 4")
def student_ce(*, student_logprobs: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by the student's loss on the data.

    Returns:
        -log q(y) in nats, in [0, inf).

    Provenance:
        Place: Table 1
        Code: SE-KD3x sekd/distill/trainer.py:951-983
        Deviation: at temperature 1; the code reads log-probabilities at the distillation temperature
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return -pick(student_logprobs, targets)
