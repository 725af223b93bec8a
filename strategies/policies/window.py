"""A window of every sequence, a share of it at a random place: positions in a row, and none preferred."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count
from strategies.policies._segment import keep_segment
from strategies.registry import policy

# B = sequences, L = positions


@policy("window", source="a control: `first` and `last` without a preferred place", scored=False, keeps="budget")
@dataclass(frozen=True, kw_only=True)
class Window:
    """Keep ceil(budget * valid positions) of each sequence in a row, at a place drawn anew at every step.

    Provenance:
        Code: SimOPD src/simopd/losses.py _randseg_window
        Deviation: a share; the code keeps a number, which is `window_n`
        Test: tests/strategies/test_policies.py::test_a_segment_is_where_it_says
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep exactly that many; every place is equally likely."""
        return keep_segment(valid, budget_count(valid, ctx.budget), ctx.uniform(1)[:, 0]), state
