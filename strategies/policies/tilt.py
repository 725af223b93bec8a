"""No selection: weights lean towards the low scores when training begins and towards the high ones when it ends."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.registry import policy

# B = sequences, L = positions


@policy(
    "tilt",
    source="arXiv:2605.01732 (EGAD), token curriculum; reconstructed from the abstract",
    budgeted=False,
    keeps="valid",
)
@dataclass(frozen=True, kw_only=True)
class Tilt:
    """Weigh each valid position by (1 - a)(1 - u) + a u, normalised to mean 1 per sequence.

    a is the share of training done. The score u must be in [0, 1], as a rank is. Half-way all weights are 1.

    Provenance:
        Code: none: no public code
        Deviation: weights, slope and normalisation are ours: the abstract says only that focus shifts from low to high
            entropy
        Test: tests/distill/test_features.py::test_egad_equals_the_dense_oracle
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Normalise the weights; a score outside [0, 1] counts as the nearer end, all zeros leave uniform weights."""
        kept = valid.to(torch.promote_types(scores.dtype, torch.float32))
        num_valid = kept.sum(dim=-1)
        rank, done = scores.to(kept.dtype).clamp(0.0, 1.0), ctx.progress
        mass = ((1.0 - done) * (1.0 - rank) + done * rank).masked_fill(~valid, 0.0)
        total = mass.sum(dim=-1, keepdim=True)
        weight = (mass * (num_valid[:, None] / total)).where(total > 0, kept)
        return Selection(weight=weight, denom=num_valid), state
