"""The highest-scoring positions of the whole global batch: batch-level selection (BLS)."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("batch_top_k", source="arXiv:2105.12967 (Wang et al.), batch-level selection", scope="batch")
@dataclass(frozen=True, kw_only=True)
class BatchTopK:
    """Keep the ceil(budget * valid positions of the batch) highest scores of the batch, weight 1 each.

    A sequence may lose all its positions; how the others are averaged then is the strategy's normaliser.

    Provenance:
        Code: Selective-KD fairseq/criterions/label_smoothed_cross_entropy.py:166-186
        Deviation: exactly the budget, of the global batch; the code keeps all that tie with the last, of each
            micro-batch
        Test: tests/strategies/test_policies.py::test_batch_top_k_keeps_the_highest_of_the_whole_batch
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep exactly that many; ties go to the first sequence, there to the earliest position."""
        pooled = valid.reshape(1, -1)
        rank = rank_scores(scores.reshape(1, -1), pooled).reshape(valid.shape)
        weight = ((rank < budget_count(pooled, ctx.budget)) & valid).float()
        return Selection(weight=weight, denom=weight.sum(dim=-1)), state
