"""Both ends of a ranking: the highest scores and the lowest, half of the budget each."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("ends", source="arXiv:2609.04565 (extremely sparse supervision), its highest and lowest tokens together")
@dataclass(frozen=True, kw_only=True)
class Ends:
    """Keep the ceil(budget / 2 * valid positions) highest scores of each sequence and as many lowest, weight 1 each.

    At least one of each, so the smallest budget is two positions; all of a sequence that has fewer.

    Provenance:
        Code: none: no public code
        Deviation: how the paper rounds is not known; its shares, 0.05% at either end, are the budget 0.1%
        Test: tests/strategies/test_policies.py::test_ends_are_the_highest_and_the_lowest
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep both ends; ties go to the earliest position at the upper one, to the latest at the lower one."""
        rank, num_valid = rank_scores(scores, valid), valid.sum(dim=-1, keepdim=True)
        count = budget_count(valid, ctx.budget / 2)[:, None]
        weight = (((rank < count) | (rank >= num_valid - count)) & valid).float()
        return Selection(weight=weight, denom=weight.sum(dim=-1)), state
