"""No selection: later positions weigh more, whatever the models say."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.registry import policy

# B = sequences, L = positions


@policy(
    "position_weights",
    source="arXiv:2605.21606 (PW-OPSD), its position weight",
    scored=False,
    budgeted=False,
    keeps="valid",
)
@dataclass(frozen=True, kw_only=True)
class PositionWeights:
    """Weigh the i-th of n valid positions by floor + (1 - floor) sigmoid(((i - 1/2) / n - centre) / width).

    Divided by n, not by the sum of the weights.

    Attributes:
        floor: least weight, in [0, 1]; 0.25 in the paper's moderate schedule.
        centre: share of the sequence at which the weight is half-way; 0.3.
        width: how slowly it rises, above 0; 0.1.

    Provenance:
        Code: PW-OPSD code/ea_opsd_trainer.py:246-275; PW-OPSD launchers/run_qwen4b_base_pwopsd_train.sh:98-100
        Deviation: none known
        Test: tests/strategies/test_policies.py::test_position_weights_rise_as_the_formula_says
    """

    floor: float
    centre: float
    width: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor is a weight, in [0, 1]; it is {self.floor}")
        if not self.width > 0.0:
            raise ValueError(f"width must be above 0; it is {self.width}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Weigh by place among the valid positions."""
        num_valid = valid.sum(dim=-1, keepdim=True)
        share = (valid.cumsum(dim=-1).double() - 0.5) / num_valid.clamp(min=1)
        risen = torch.sigmoid((share - self.centre) / self.width)
        weight = (self.floor + (1.0 - self.floor) * risen).masked_fill(~valid, 0.0)
        return Selection(weight=weight, denom=num_valid[:, 0].double()), state
