"""Positions drawn with replacement in proportion to their scores: random sampling in place of the top k."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.policies._draws import Proposal, draw
from strategies.registry import policy

# B = sequences, L = positions


@policy("pos_rs", source="arXiv:2602.01395 (SE-KD), Pos RS-KD")
@dataclass(frozen=True, kw_only=True)
class PosRs(Proposal):
    """Weigh each position by how often it comes up in K = ceil(budget * valid positions) draws, divided by K.

    Without coverage the loss is an unbiased estimate of score-weighted KD, sum_t r_t loss_t, not of Full KD.

    Provenance:
        Place: Section 5; Appendix A
        Code: SE-KD3x sekd/distill/trainer.py:1852-2032
        Deviation: none from the text; the code draws by a softmax: `pos_rs_softmax`
        Test: tests/strategies/test_policies_drawn.py::test_pos_rs_estimates_entropy_weighted_kd_and_not_full_kd
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Draw r_t in proportion to the scores; a covered position counts once."""
        draws = draw(scores, valid, ctx, self)
        weight = (draws.counts + draws.covered).to(torch.promote_types(scores.dtype, torch.float32))
        return Selection(weight=weight, denom=(draws.num_draws + draws.covered.sum(dim=-1)).float()), state
