"""Trust min(p(y) / q(y), 1): whether the teacher would have accepted the student's opinion of the token."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions


@signal("trust", source="arXiv:2606.01249 (TrOPD), the agreement ratio of its trust region")
def trust(*, student_ce: Float[Tensor, " N"], teacher_ce: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by min(p(y) / q(y), 1), what speculative decoding accepts a token with.

    High where the teacher finds the token at least as likely as the student does; `bottom_k` finds the outliers.

    Returns:
        A probability in [0, 1].

    Provenance:
        Code: none: the authors' repository (Xingrun-Xing2/TrOPD) announces its code
        Deviation: on the data's token; of the method the signal alone: the threshold that parts its trust region from
            the outliers, which it compares by another divergence, is not known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return (student_ce - teacher_ce).clamp(max=0.0).exp()
