"""No selection: every position is distilled with its score as the weight, as it is."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.registry import policy

# B = sequences, L = positions


@policy("raw_weights", source="arXiv:2311.13621 (EA-KD), a loss times its weight", budgeted=False)
@dataclass(frozen=True, kw_only=True)
class RawWeights:
    """Weigh each valid position by its score, and divide by the number of valid positions.

    Unlike `weighted`, which scales each sequence to mean 1: a sequence of low scores counts less, and one without any
    counts for nothing.

    Provenance:
        Code: EA-KD mdistiller/distillers/KD.py kd_loss; FiRe-OPD verl/verl/workers/actor/dp_actor.py:503-525
        Deviation: none known
        Test: tests/strategies/test_policies.py::test_raw_weights_are_the_scores
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Take the scores; a negative one counts as zero."""
        exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weight = exact.masked_fill(~valid, 0.0).clamp(min=0)
        denom = valid.sum(dim=-1).where((weight > 0).any(dim=-1), 0).float()
        return Selection(weight=weight, denom=denom), state
