"""N positions in a row at a random place of every sequence: the control for `first_n` and `last_n`."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.policies._segment import Counted, keep_segment
from strategies.registry import policy

# B = sequences, L = positions


@policy("window_n", source="SimOPD, its control h3", scored=False, budgeted=False)
@dataclass(frozen=True, kw_only=True)
class WindowN(Counted):
    """Keep `num` valid positions of each sequence in a row, at a place drawn anew at every step, weight 1 each.

    Provenance:
        Code: SimOPD src/simopd/losses.py _randseg_window
        Deviation: none known
        Test: tests/strategies/test_policies.py::test_a_segment_is_where_it_says
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep that many, or all of a shorter sequence; every place is equally likely."""
        return keep_segment(valid, self.count(valid), ctx.uniform(1)[:, 0]), state
