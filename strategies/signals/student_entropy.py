"""Student entropy H(q_t): how undecided the student is about the next token."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("student_entropy", source="arXiv:2602.01395 (SE-KD), Section 4")
def student_entropy(*, student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by the entropy of the student's next-token distribution.

    Reads the student only, so positions can be picked before the teacher's head is applied.

    Returns:
        Entropy in nats, in [0, log V]. It is the current student's, whatever the teacher is read from.

    Provenance:
        Place: Student Entropy-based Position Selection
        Code: SE-KD3x sekd/distill/trainer.py:946-950; SE-KD3x sekd/training/entropy_utils.py:4-26
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return -expectation(student_logprobs, student_logprobs)
