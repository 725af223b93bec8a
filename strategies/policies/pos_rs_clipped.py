"""Positions drawn in proportion to scores whose extremes are cut: the mitigation of Pos RS-KD that is about peaks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, rank_scores
from strategies.policies.pos_rs import PosRs
from strategies.policies.pos_rs_corrected import PosRsCorrected
from strategies.registry import policy

# B = sequences, L = positions


@policy(
    "pos_rs_clipped", source="arXiv:2602.01395 (SE-KD), Appendix on Pos RS-KD, clipping extreme entropies; untested"
)
@dataclass(frozen=True, kw_only=True)
class PosRsClipped:
    """Draw as pos_rs from r_t ~ min(score_t, c), c being the least of the sequence's `top` share of scores.

    Attributes:
        top: share of a sequence's valid positions, in (0, 1], whose scores count alike; the paper names none.
        corrected: whether a drawn loss is divided by n r_t, so that the estimate is of Full KD.

    Provenance:
        Place: Appendix D, mitigation (ii)
        Code: none: proposed in the text only
        Deviation: the level is ours: the paper names none
        Test: tests/strategies/test_policies_readings.py::test_weights_equal_a_loop_over_draws
    """

    top: float
    corrected: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.top <= 1.0:
            raise ValueError(f"top is a share of positions, in (0, 1]; it is {self.top}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Cut, then draw; at top 1 the draws are uniform."""
        highest = (rank_scores(scores, valid) < budget_count(valid, self.top)[:, None]) & valid
        ceiling = scores.masked_fill(~highest, torch.inf).amin(dim=-1, keepdim=True)
        return (PosRsCorrected() if self.corrected else PosRs()).select(scores.minimum(ceiling), valid, ctx, state)
