"""Reverse KL(q_t || p_t): where the student believes in what the teacher considers unlikely."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("reverse_kl", source="arXiv:2602.01395 (SE-KD), Section 4")
def reverse_kl(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Score each position by the reverse divergence of the student from the teacher.

    Returns:
        KL in nats, in [0, inf).

    Provenance:
        Place: Table 1
        Code: SE-KD3x sekd/distill/trainer.py:1073-1077
        Deviation: at temperature 1; the code at the distillation temperature
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return expectation(student_logprobs, student_logprobs - teacher_logprobs)
