"""EA-KD's weight: the teacher's entropy, and more of it where the student is undecided too."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions


@signal("ea_kd", source="arXiv:2311.13621 (EA-KD), its reweighting factor")
def ea_kd(
    *, teacher_entropy: Float[Tensor, " N"], student_entropy_normalised: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Score each position by (H(p) + H(p) H(q) / log V) / 2.

    Returns:
        Nats, in [0, log V].

    Provenance:
        Code: EA-KD mdistiller/distillers/KD.py get_w
        Deviation: entropies at temperature 1, where the code for images, the only one that is public, takes 3; log V as
            the entropy's bound, as that code has it for ImageNet
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return teacher_entropy * (1.0 + student_entropy_normalised) / 2.0
