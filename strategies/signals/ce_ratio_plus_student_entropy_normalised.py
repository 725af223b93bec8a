"""Cross-entropy ratio plus student entropy as a share of its maximum: the sum as SE-KD's released code has it."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions


@signal(
    "ce_ratio_plus_student_entropy_normalised",
    source="released code of arXiv:2602.01395 (SE-KD), where its Section 4 says r + H(q)",
)
def ce_ratio_plus_student_entropy_normalised(
    *, ce_ratio: Float[Tensor, " N"], student_entropy_normalised: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Score each position by CE(y, q) / CE(y, p) + H(q) / log V.

    The second part is at most 1, so that the order is nearly that of `ce_ratio`.

    Returns:
        A number in [0, inf).

    Provenance:
        Code: SE-KD3x sekd/distill/trainer.py:1040-1050
        Deviation: that of `ce_ratio`
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return ce_ratio + student_entropy_normalised
