"""Excess loss CE(y, q) - CE(y, p): what the student still has to learn by the teacher's measure."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions


@signal("excess_loss", source="arXiv:2404.07965 (Rho-1), with the teacher as the reference model")
def excess_loss(*, student_ce: Float[Tensor, " N"], teacher_ce: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by how much more the data costs the student than the teacher.

    Returns:
        Nats, any sign; 0 where both do alike.

    Provenance:
        Code: none: microsoft/rho holds outputs of the trained models and no training code
        Deviation: the teacher stands for Rho-1's reference model, and what is selected is distilled rather than trained
            on
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return student_ce - teacher_ce
