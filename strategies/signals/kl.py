"""Forward KL(p_t || q_t): where the student misses what the teacher considers likely."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("kl", source="arXiv:2602.01395 (SE-KD), Section 4")
def kl(*, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by the forward divergence of the student from the teacher.

    The direction that ranks is a separate choice from the direction that is trained (the criterion).

    Returns:
        KL in nats, in [0, inf).

    Provenance:
        Place: Table 1
        Code: SE-KD3x sekd/distill/trainer.py:1067-1072
        Deviation: always forward and at temperature 1; the code follows the direction and the temperature that are
            trained
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return expectation(teacher_logprobs, teacher_logprobs - student_logprobs)
