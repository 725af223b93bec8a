"""Forward KL plus student entropy: where the student is undecided or wrong."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("kl_plus_student_entropy", source="arXiv:2602.01395 (SE-KD), Section 4")
def kl_plus_student_entropy(*, kl: Float[Tensor, " N"], student_entropy: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by KL(p || q) + H(q).

    Returns:
        Nats, in [0, inf).

    Provenance:
        Place: Table 1
        Code: SE-KD3x sekd/distill/trainer.py:1078-1136
        Deviation: none from the text; the code adds standard scores: `kl_plus_student_entropy_z`
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return kl + student_entropy
