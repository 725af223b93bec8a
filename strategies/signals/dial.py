"""DIAL: the models' disagreement on the true token in logarithms, discounted where both find it unlikely."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions


@signal("dial", source="arXiv:2610.11659 (DIAL-OPD); reconstructed from a summary of its score")
def dial(
    *, student_ce: Float[Tensor, " N"], teacher_ce: Float[Tensor, " N"], power: float = 1.0
) -> Float[Tensor, " N"]:
    """Score each position by |log p(y) / q(y)| m^power, m being the logarithmic mean of p(y) and q(y).

    The logarithmic mean is (p - q) / (log p - log q), so that power 1 gives |p(y) - q(y)| and 0 the log-ratio.

    Args:
        student_ce: -log q(y).
        teacher_ce: -log p(y).
        power: how much a token that both find unlikely counts less, at least 0.

    Returns:
        A number of at least 0; 0 only where both models agree or both give the token no probability.

    Provenance:
        Code: none: the authors' repository (EIT-NLP/DIAL-OPD) was not to be had
        Deviation: on the data's token; which power the paper trains with is not known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    gap = (student_ce - teacher_ce).abs()
    # max(p, q) (1 - e^-gap) / gap: no difference of nearly equal probabilities, and 1 for its second factor at gap 0.
    shrink = (-torch.expm1(-gap) / gap).where(gap > 0, 1.0)
    return gap * (torch.minimum(student_ce, teacher_ce).neg().exp() * shrink) ** power
