"""Positions drawn by a softmax of their scores: Pos RS-KD as its released code draws."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.policies.pos_rs import PosRs
from strategies.policies.pos_rs_corrected import PosRsCorrected
from strategies.registry import policy

# B = sequences, L = positions


@policy("pos_rs_softmax", source="released code of arXiv:2602.01395 (SE-KD), where its Section 5 says r_t ~ H(q_t)")
@dataclass(frozen=True, kw_only=True)
class PosRsSoftmax:
    """Draw K = ceil(budget * valid positions) from r_t ~ max(softmax(sharpness * score)_t, floor).

    The text's r_t is proportional to the score itself. In nats of entropy a softmax is much more peaked.

    Attributes:
        estimate: `weighted`, the mean of the drawn losses; `mean`, each divided by n r_t, unbiased for Full KD's mean
            over the n valid positions; `sum`, each divided by r_t alone as in the code, n times `mean`.
        sharpness: above 0; 1 in the code.
        floor: least probability before r is normalised, in [0, 1); 1e-6 in the code.

    Provenance:
        Code: SE-KD3x sekd/distill/trainer.py:1941-1962; SE-KD3x sekd/distill/compute_skip.py:140-151; SE-KD3x
            sekd/distill/forward_batch_runner.py:1307-1318
        Deviation: of any signal; the code's is the teacher's entropy, or its uncertainty. Sequences of fewer than three
            positions are not skipped
        Test: tests/strategies/test_policies_readings.py::test_the_estimate_is_of_what_it_says
    """

    estimate: str
    sharpness: float = 1.0
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.estimate not in ("weighted", "mean", "sum"):
            raise ValueError(f"estimate must be weighted, mean or sum; it is {self.estimate!r}")
        if not self.sharpness > 0.0:
            raise ValueError(f"sharpness must be above 0; it is {self.sharpness}")
        if not 0.0 <= self.floor < 1.0:
            raise ValueError(f"floor is a probability, in [0, 1); it is {self.floor}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Draw as pos_rs and pos_rs_corrected do, from these probabilities."""
        logits = (self.sharpness * scores.double()).masked_fill(~valid, -torch.inf)
        # A sequence without valid positions has a row of nan, which nothing reads.
        mass = logits.softmax(dim=-1).where(valid, 0.0).clamp(min=self.floor)
        drawn, state = (PosRs() if self.estimate == "weighted" else PosRsCorrected()).select(mass, valid, ctx, state)
        weight = drawn.weight.to(torch.promote_types(scores.dtype, torch.float32))
        if self.estimate == "sum":
            weight = weight * valid.sum(dim=-1, keepdim=True)
        return Selection(weight=weight, denom=drawn.denom), state
