"""Cross-entropy ratio: the student's loss on the true token relative to the teacher's."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("ce_ratio", source="arXiv:2602.01395 (SE-KD), Section 4")
def ce_ratio(
    *, student_ce: Float[Tensor, " N"], teacher_ce: Float[Tensor, " N"], eps: float = 1e-6
) -> Float[Tensor, " N"]:
    """Score each position by how much worse than the teacher the student does on the data.

    Args:
        student_ce: CE(y, q) in nats.
        teacher_ce: CE(y, p) in nats.
        eps: lower bound of the denominator, so that a certain teacher does not divide by zero.

    Returns:
        A ratio in [0, inf); 1 where both do alike.

    Provenance:
        Place: Table 1, after DA-KD
        Code: SE-KD3x sekd/distill/trainer.py:984-1052
        Deviation: CE(y, p) is bounded below by 1e-6, to which the code adds 1e-6
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return student_ce / teacher_ce.clamp(min=eps)
