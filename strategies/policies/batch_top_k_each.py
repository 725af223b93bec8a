"""The highest-scoring positions of the whole global batch, and some of every sequence."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, rank_scores
from strategies.policies.batch_top_k import BatchTopK
from strategies.registry import policy

# B = sequences, L = positions


@policy("batch_top_k_each", source="arXiv:2609.24432 (IER-OPD), its budget", scope="batch")
@dataclass(frozen=True, kw_only=True)
class BatchTopKEach:
    """Keep the ceil(budget * valid positions of the batch) highest scores of the batch, weight 1 each.

    Of a sequence that is left with fewer than `least`, its highest ones are kept on top of that.

    Attributes:
        least: positions of every sequence that are kept at least, as far as it has them; 1 in the paper.

    Provenance:
        Code: IER-OPD slime/rollout/tip_compat.py _apply_budget_mask; IER-OPD configs/main.json
        Deviation: none known
        Test: tests/strategies/test_policies.py::test_a_batchs_top_k_leaves_no_sequence_out
    """

    least: int

    def __post_init__(self) -> None:
        if self.least < 0:
            raise ValueError(f"least is a number of positions, at least 0; it is {self.least}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep the union of both; ties go to the first sequence, there to the earliest position."""
        best, state = BatchTopK().select(scores, valid, ctx, state)
        weight = best.weight.masked_fill((rank_scores(scores, valid) < self.least) & valid, 1.0)
        return Selection(weight=weight, denom=weight.sum(dim=-1)), state
