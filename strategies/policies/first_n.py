"""The first N positions of every sequence: early supervision alone."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.policies._segment import Counted, keep_segment
from strategies.registry import policy

# B = sequences, L = positions


@policy("first_n", source="arXiv:2605.27028 (ESR), its first N tokens as a mask", scored=False, budgeted=False)
@dataclass(frozen=True, kw_only=True)
class FirstN(Counted):
    """Keep the first `num` valid positions of each sequence, weight 1 each; 100 in the paper.

    Provenance:
        Code: SimOPD src/simopd/losses.py k1_first_segment
        Deviation: none from the code, which is another project's; the paper, of whose code nothing is public, writes no
            more than N tokens instead of leaving out the loss of the rest
        Test: tests/strategies/test_policies.py::test_a_segment_is_where_it_says
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep that many, or all of a shorter sequence."""
        return keep_segment(valid, self.count(valid), 0.0), state
