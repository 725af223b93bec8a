"""A window that slides from the lowest-scoring positions to the highest-scoring ones while training goes on."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("curriculum", source="arXiv:2602.01395 (SE-KD), Section 5", keeps="budget")
@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Keep ceil(budget * valid positions) of each sequence, weight 1 each: a window in the order of their scores.

    At the start these are the lowest scores, from `ramp` on exactly those of top_k.

    Attributes:
        ramp: share of training, in (0, 1], after which the window rests; 0.41 in the paper (4000 of 9766 steps).
        power: the window's place grows as (progress / ramp)^power; 1 is steady, more lingers at the low end.

    Provenance:
        Place: Table 9 names 4000 steps
        Code: SE-KD3x sekd/distill/trainer.py:429-477
        Deviation: `ramp` is a share of training, where the code counts steps
        Test: tests/strategies/test_policies.py::test_a_curriculums_window_stands_where_the_formula_puts_it
    """

    ramp: float
    power: float

    def __post_init__(self) -> None:
        if not 0.0 < self.ramp <= 1.0:
            raise ValueError(f"ramp is a share of training, in (0, 1]; it is {self.ramp}")
        if not self.power > 0.0:
            raise ValueError(f"power must be above 0; it is {self.power}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep the window; where scores tie, the earliest position counts as the higher one, as in top_k."""
        count = budget_count(valid, ctx.budget)
        slack = valid.sum(dim=-1) - count
        done = min(ctx.progress / self.ramp, 1.0) ** self.power
        # The slack of 1e-6 keeps 0.07 * 100 = 7.000000000000001 and its likes on the right side, as in budget_count.
        start = (slack.double() * done + 1e-6).floor().long()
        first = (slack - start)[:, None]
        rank = rank_scores(scores, valid)
        weight = ((rank >= first) & (rank < first + count[:, None]) & valid).to(torch.float32)
        return Selection(weight=weight, denom=count.float()), state
