"""No selection: every position is distilled with a weight in proportion to its score."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext
from strategies.registry import policy

# B = sequences, L = positions


@policy("weighted", source="arXiv:2602.01395 (SE-KD), weighted KD", budgeted=False, keeps="valid")
@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Weigh each valid position by its score, normalised to mean 1 per sequence.

    Provenance:
        Place: Table 1, after Guo et al. (2024)
        Code: SE-KD3x sekd/distill/trainer.py:1329-1363
        Deviation: mean 1 in each sequence; the code divides by the weights of the micro-batch, and takes the teacher's
            entropy unless told otherwise
        Test: tests/strategies/test_policies.py::test_weighted_is_proportional_with_mean_one
    """

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Normalise the scores; a negative one counts as zero, and all zeros leave uniform weights."""
        kept = valid.float()
        num_valid = kept.sum(dim=-1)
        exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
        mass = exact.masked_fill(~valid, 0.0).clamp(min=0)
        total = mass.sum(dim=-1, keepdim=True)
        weight = (mass / total * num_valid[:, None]).where(total > 0, kept)
        return Selection(weight=weight, denom=num_valid), state
