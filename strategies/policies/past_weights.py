"""No selection: a position weighs less the more the models have disagreed before it."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.cumulative import cumulate, preceding
from strategies.registry import policy

# B = sequences, L = positions


@policy("past_weights", source="arXiv:2606.22600 (IW-OPD)", budgeted=False, keeps="valid")
@dataclass(frozen=True, kw_only=True)
class PastWeights:
    """Weigh each valid position by 1 + gain (1 - s), s being the share of its sequence's |score| that precedes it.

    With the log-ratio of the token as the score (`excess_loss`), it is the paper's. Divided by the valid positions, not
    by the sum of the weights.

    Attributes:
        gain: gamma, at least 0; 0.5 in TRL.

    Provenance:
        Code: TRL-IW trl/experimental/iw_opd/iw_opd_trainer.py _compute_iw_opd_loss
        Deviation: on the data's text instead of the student's; the code, which is not the authors', multiplies an
            estimate of the divergence from the sampled token
        Test: tests/strategies/test_policies.py::test_past_weights_fall_with_what_came_before
    """

    gain: float

    def __post_init__(self) -> None:
        if not self.gain >= 0.0:
            raise ValueError(f"gain must be at least 0; it is {self.gain}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Weigh by what came before; scores that are all zero leave the weight of a first position everywhere."""
        size = scores.double().abs().masked_fill(~valid, 0.0)
        peak = size.amax(dim=-1, keepdim=True)
        # In fixed point, so that padding and devices change nothing.
        running = cumulate((size / peak).where(peak > 0, 0.0))
        share = preceding(running).double() / running[:, -1:].clamp(min=1)
        weight = (1.0 + self.gain * (1.0 - share)).masked_fill(~valid, 0.0)
        return Selection(weight=weight, denom=valid.sum(dim=-1).double()), state
