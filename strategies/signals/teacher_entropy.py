"""Teacher entropy H(p_t): how undecided the teacher is about the next token."""

from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("teacher_entropy", source="arXiv:2602.01395 (SE-KD), Section 4")
def teacher_entropy(*, teacher_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by the entropy of the teacher's next-token distribution.

    Returns:
        Entropy in nats, in [0, log V]. Only meaningful from the full distribution: a truncated one biases it low.

    Provenance:
        Place: Table 1
        Code: SE-KD3x sekd/distill/trainer.py:1053-1055; SE-KD3x sekd/distill/_mixins/entropy.py:12-52
        Deviation: of the full distribution; the code's cached flow reads an entropy of truncated rows
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return -expectation(teacher_logprobs, teacher_logprobs)
