"""Positions drawn uniformly without replacement: the control that any signal has to beat."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, keep_first, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("random", source="arXiv:2602.01395 (SE-KD), RandomPos", scored=False, keeps="budget")
@dataclass(frozen=True, kw_only=True)
class Random:
    """Keep ceil(budget * valid positions) of each sequence, drawn anew at every step, weight 1 each.

    Provenance:
        Place: Section 5
        Code: SE-KD3x sekd/distill/trainer.py:1587-1626
        Deviation: ceil of the budget where the code takes the floor
        Test: tests/strategies/test_policies.py::test_random_draws_every_position_and_every_pair_equally_often
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep the top of a uniform ranking, which is a uniform draw without replacement."""
        noise = ctx.uniform(valid.shape[-1])
        return keep_first(rank_scores(noise, valid), valid, budget_count(valid, ctx.budget)), state
