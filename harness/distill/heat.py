"""The temperature of a row: the strategy's number, or what its registered temperature gave the position."""

import torch
from jaxtyping import Float
from torch import Tensor

from harness.distill.objective import Objective
from harness.distill.score import Rows

# N = supervised positions, V = vocabulary


def temperature_of(objective: Objective, rows: Rows) -> float | Float[Tensor, " N"]:
    """Return the temperature that rows are compared at: one number for all, or one per row."""
    if objective.temperature is not None:
        assert rows.temperature is not None, "computed with the scores"
        return rows.temperature.to(torch.promote_types(rows.student.dtype, torch.float32))
    assert isinstance(objective.strategy.temperature, float), "nothing is compared without a distillation loss"
    return objective.strategy.temperature


def heated(logits: Float[Tensor, "N V"], temperature: float | Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Return logits at a temperature; float32 at least where every row has its own."""
    if isinstance(temperature, Tensor):
        return logits / temperature[:, None]
    return logits if temperature == 1.0 else logits / temperature
