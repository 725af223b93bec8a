"""The highest-scoring positions of each sequence: the paper's selection rule."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, keep_first, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("top_k", source="arXiv:2602.01395 (SE-KD), Section 4", keeps="budget")
@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keep the ceil(budget * valid positions) highest scores of each sequence, weight 1 each.

    Provenance:
        Place: unnumbered equation of m_t
        Code: SE-KD3x sekd/distill/trainer.py:1153-1185
        Deviation: sequences of fewer than three positions are not skipped, and ties are broken by position; with
            normalize_topk_by_length the code gives every sequence of a micro-batch the same number
        Test: tests/strategies/test_policies.py::test_top_k_keeps_the_highest_and_breaks_ties_earliest_first
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep exactly that many; ties go to the earliest position."""
        return keep_first(rank_scores(scores, valid), valid, budget_count(valid, ctx.budget)), state
