"""A temperature that moves in a straight line through training: soft targets first, the teacher's own at the end."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import temperature

# B = sequences, L = positions


@temperature("linear", source="arXiv:2104.07163 (Annealing KD), the idea; linear in the share of training here")
def linear(*, valid: Bool[Tensor, "B L"], progress: float, start: float, end: float) -> Float[Tensor, "B L"]:
    """Give every position start + (end - start) progress.

    Args:
        valid: positions that have a target.
        progress: share of training done, in [0, 1).
        start: the first step's temperature, above 0.
        end: where it arrives when training is over, above 0.

    Provenance:
        Code: SE-KD3x sekd/distill/kd_temperature_schedule.py:4-19
        Deviation: linear from the first step on, where SE-KD's code, which its paper does not use, holds the first
            value for 60% of training; of Annealing KD's own code nothing was read
        Test: tests/distill/test_temperatures.py::test_linear_moves_with_the_progress
    """
    if not min(start, end) > 0.0:
        raise ValueError(f"start and end of linear must be above 0, they are {start:g} and {end:g}")
    return torch.full(valid.shape, start + (end - start) * progress, dtype=torch.float64, device=valid.device)
