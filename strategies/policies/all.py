"""Every valid position: Full KD, the reference that selection is compared with."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.registry import policy

# B = sequences, L = positions


@policy("all", source="arXiv:1503.02531 (Hinton et al.), on every token", scored=False, budgeted=False, keeps="valid")
@dataclass(frozen=True, kw_only=True)
class All:
    """Keep everything, weight 1; the budget plays no part.

    Provenance:
        Code: none: a definition
        Deviation: none known
        Test: tests/strategies/test_policies.py::test_all_keeps_every_valid_position
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep every valid position."""
        weight = valid.float()
        return Selection(weight=weight, denom=weight.sum(dim=-1)), state
