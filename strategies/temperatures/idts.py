"""IDTS: a low temperature for hard tokens, to correct errors, and a high one for easy ones, to learn their shape."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import temperature

# B = sequences, L = positions


@temperature("idts", source="arXiv:2510.11615 (AdaKD), inverse difficulty temperature scaling", scope="batch")
def idts(
    *, hellinger: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], base: float, strength: float
) -> Float[Tensor, "B L"]:
    """Give a position of difficulty s the temperature base exp(-strength tanh(log(s / m))), m the median of s.

    The median is the lower one, over all valid positions of the global batch, selected or not.

    Args:
        hellinger: s, the distance between the two distributions at temperature 1.
        valid: positions that have a target.
        base: the median position's temperature, above 0.
        strength: c, at least 0, 0.5 in the paper; 0 is a constant temperature.

    Returns:
        Temperatures in [base exp(-c), base exp(c)].

    Provenance:
        Code: AdaKD loss/losses.py:502-510
        Deviation: the median is over all valid positions of the global batch, the code's over the selected ones of a
            micro-batch; strength is the paper's, the code's default is 0.6
        Test: tests/distill/test_temperatures.py::test_idts_is_low_where_the_student_is_far_and_the_base_at_the_median
    """
    if not base > 0.0 or not strength >= 0.0:
        raise ValueError(f"idts needs base above 0 and strength of at least 0, they are {base:g} and {strength:g}")
    ordered = hellinger.masked_fill(~valid, torch.inf).flatten().sort().values
    # Gathered, because a GPU would be waited for to learn a plain index; without a valid position any number will do.
    middle = ((valid.sum() - 1) // 2).clamp(min=0)[None]
    median = ordered.gather(0, middle).masked_fill(~valid.any(), 1.0)
    # tanh(log(s / m)) without the logarithm, whose 0 / 0 is a position as easy as the median.
    power, reference = hellinger.square(), median.square()
    total = power + reference
    harder = ((power - reference) / total).where(total > 0, torch.zeros_like(total))
    return base * torch.exp(-strength * harder)
