"""Positions drawn without replacement in proportion to their scores: the top k with chance in it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, keep_first, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("sampled", source="OPSD's sampler, the repository that arXiv:2604.14084 (TIP) extends", keeps="budget")
@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Draw ceil(budget * valid positions) of each sequence, one after the other, by their scores; weight 1 each.

    The selection is not corrected for: what is estimated is neither Full KD nor score-weighted KD.

    Provenance:
        Code: OPSD src/opd/losses.py:249-310
        Deviation: in each sequence, and ceil of the budget, where the code draws from all tokens that it is given and
            takes the floor
        Test: tests/strategies/test_policies.py::test_sampled_draws_one_after_the_other_by_its_scores
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Rank by log(u) / score with u uniform (Efraimidis and Spirakis, 2006); what has no score comes last."""
        # Stream 1: stream 0 is the noise that the scores themselves may be made of.
        race = torch.log1p(-ctx.uniform(valid.shape[-1], stream=1).double()) / scores.double().clamp(min=0)
        race = race.where(scores > 0, -torch.inf)
        return keep_first(rank_scores(race, valid), valid, budget_count(valid, ctx.budget)), state
