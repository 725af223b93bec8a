"""Positions drawn in proportion to their scores, each loss divided by its probability: unbiased for Full KD."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.policies._draws import Proposal, draw
from strategies.registry import policy

# B = sequences, L = positions


@policy("pos_rs_corrected", source="arXiv:2602.01395 (SE-KD), Pos RS-KD with importance weights")
@dataclass(frozen=True, kw_only=True)
class PosRsCorrected(Proposal):
    """Weigh each of the draws of pos_rs by 1 / (n r_t) and divide by K: loss = 1/(K n) sum_draws loss_t / r_t.

    Its mean is Full KD's (1/n) sum_t loss_t over the n positions that take part: it is never self-normalised. Only
    positions of score zero, which cannot be drawn, are missing from that mean.

    Provenance:
        Place: Appendix A, importance-corrected sampling
        Code: SE-KD3x sekd/distill/trainer.py:2017-2024
        Deviation: none from the text; the code does not divide by the number of positions: `pos_rs_softmax` with
            estimate `sum`
        Test: tests/strategies/test_policies_drawn.py::test_pos_rs_corrected_estimates_full_kd
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Draw and correct; covered positions enter exactly, draws stand for the others."""
        draws = draw(scores, valid, ctx, self)
        num, num_draws = draws.eligible.sum(dim=-1, keepdim=True).clamp(min=1), draws.num_draws[:, None]
        # Divided by K below, a covered position weighs 1/n, and the m draws average (1/n) sum over the others.
        budget = num_draws + draws.covered.sum(dim=-1, keepdim=True)
        share = (draws.counts / (num_draws * draws.probability)).where(draws.counts > 0, 0.0)
        weight = (share + draws.covered.double()) * (budget.double() / num)
        exact = torch.promote_types(scores.dtype, torch.float32)
        return Selection(weight=weight.to(exact), denom=budget.squeeze(-1).float()), state
