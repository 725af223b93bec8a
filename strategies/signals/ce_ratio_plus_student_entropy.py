"""Cross-entropy ratio plus student entropy: where the student is undecided or behind the teacher."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("ce_ratio_plus_student_entropy", source="arXiv:2602.01395 (SE-KD), Section 4")
def ce_ratio_plus_student_entropy(
    *, ce_ratio: Float[Tensor, " N"], student_entropy: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Score each position by CE(y, q) / CE(y, p) + H(q).

    Returns:
        The plain sum of a ratio and nats, as the paper defines it, in [0, inf).

    Provenance:
        Place: Table 1
        Code: SE-KD3x sekd/distill/trainer.py:1040-1050
        Deviation: none from the text; the code divides H(q) by log V: `ce_ratio_plus_student_entropy_normalised`
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return ce_ratio + student_entropy
