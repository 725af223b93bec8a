"""The lowest-scoring positions of each sequence: the low-end control of a signal."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, keep_first, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("bottom_k", source="arXiv:2602.01395 (SE-KD), control", keeps="budget")
@dataclass(frozen=True, kw_only=True)
class BottomK:
    """Keep the ceil(budget * valid positions) lowest scores of each sequence, weight 1 each.

    Provenance:
        Code: none: a control of ours
        Deviation: not in the paper
        Test: tests/strategies/test_policies.py::test_bottom_k_keeps_the_lowest_and_breaks_ties_earliest_first
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep exactly that many; ties go to the earliest position."""
        rank = rank_scores(scores, valid, descending=False)
        return keep_first(rank, valid, budget_count(valid, ctx.budget)), state
