"""The beginning of every sequence, a share of it: what a selector has to beat that reads no model."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count
from strategies.policies._segment import keep_segment
from strategies.registry import policy

# B = sequences, L = positions


@policy(
    "first",
    source="arXiv:2512.21002 (Distilling the Essence), its first share as a mask",
    scored=False,
    keeps="budget",
)
@dataclass(frozen=True, kw_only=True)
class First:
    """Keep the first ceil(budget * valid positions) of each sequence, weight 1 each.

    Provenance:
        Code: Essence src/fmchisel/data/datasets.py:141-145
        Deviation: a mask over whole sequences, so that tokens seen and steps stay those of every other row; the code
            cuts the sequence, and takes the floor
        Test: tests/strategies/test_policies.py::test_a_segment_is_where_it_says
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep exactly that many."""
        return keep_segment(valid, budget_count(valid, ctx.budget), 0.0), state
