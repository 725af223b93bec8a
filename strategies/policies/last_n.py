"""The last N positions of every sequence: the mirror of `first_n`."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.policies._segment import Counted, keep_segment
from strategies.registry import policy

# B = sequences, L = positions


@policy("last_n", source="SimOPD, its control h2", scored=False, budgeted=False)
@dataclass(frozen=True, kw_only=True)
class LastN(Counted):
    """Keep the last `num` valid positions of each sequence, weight 1 each.

    Provenance:
        Code: SimOPD src/simopd/losses.py _lastseg_window
        Deviation: none known
        Test: tests/strategies/test_policies.py::test_a_segment_is_where_it_says
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep that many, or all of a shorter sequence."""
        return keep_segment(valid, self.count(valid), 1.0), state
