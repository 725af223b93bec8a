"""One temperature for every position and all of training; `temperature: 2.0` in a grid is short for it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import temperature

# B = sequences, L = positions


@temperature("constant", source="arXiv:1503.02531 (Hinton et al.)")
def constant(*, valid: Bool[Tensor, "B L"], value: float) -> Float[Tensor, "B L"]:
    """Give every position the same temperature.

    Args:
        valid: positions that have a target.
        value: the temperature, above 0.

    Provenance:
        Code: none: a definition
        Deviation: none known
        Test: tests/distill/test_temperatures.py::test_a_number_and_the_constant_temperature_are_the_same_trial
    """
    if not value > 0.0:
        raise ValueError(f"value of constant must be above 0, it is {value:g}")
    return torch.full(valid.shape, value, dtype=torch.float64, device=valid.device)
