"""The end of every sequence, a share of it: the mirror of `first`."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count
from strategies.policies._segment import keep_segment
from strategies.registry import policy

# B = sequences, L = positions


@policy(
    "last",
    source="arXiv:2512.21002 (Distilling the Essence), the right end it compares with",
    scored=False,
    keeps="budget",
)
@dataclass(frozen=True, kw_only=True)
class Last:
    """Keep the last ceil(budget * valid positions) of each sequence, weight 1 each.

    Provenance:
        Code: Essence src/fmchisel/data/datasets.py:121-138
        Deviation: those of `first`
        Test: tests/strategies/test_policies.py::test_a_segment_is_where_it_says
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep exactly that many."""
        return keep_segment(valid, budget_count(valid, ctx.budget), 1.0), state
