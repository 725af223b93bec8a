"""Positions drawn with replacement in proportion to their scores: what pos_rs and pos_rs_corrected share."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from strategies.base import StepContext, budget_count, rank_scores
from strategies.cumulative import UNIT, cumulate, locate

# B = sequences, L = positions


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """How positions are drawn; the defaults are plain sampling.

    Attributes:
        smoothing: tau > 0; draws are proportional to score^(1/tau), so more than 1 flattens.
        coverage: share of the budget, in [0, 1), that goes to the highest scores; the rest is drawn among the others.
        skip_first: valid positions at the start of a sequence that take no part.
    """

    smoothing: float = 1.0
    coverage: float = 0.0
    skip_first: int = 0

    def __post_init__(self) -> None:
        if not self.smoothing > 0.0:
            raise ValueError(f"smoothing must be above 0; it is {self.smoothing}")
        if not 0.0 <= self.coverage < 1.0:
            raise ValueError(f"coverage is a share of the budget, in [0, 1); it is {self.coverage}")
        if self.skip_first < 0:
            raise ValueError(f"skip_first is a number of positions, at least 0; it is {self.skip_first}")


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn; draws and covered positions together make up the budget K.

    Attributes:
        counts: how often each position came up.
        probability: r, what each had in a draw.
        covered: positions kept without a draw.
        eligible: all that take part.
        num_draws: draws of each sequence.
    """

    counts: Float[Tensor, "B L"]
    probability: Float[Tensor, "B L"]
    covered: Bool[Tensor, "B L"]
    eligible: Bool[Tensor, "B L"]
    num_draws: Int[Tensor, " B"]


def draw(scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, proposal: Proposal) -> Draws:
    """Draw K = ceil(budget * valid positions) of each sequence, never more than take part.

    Inverse transform sampling on numbers of the sequence's own stream: padding and the batch's split change nothing. A
    negative score counts as zero; scores that are all zero leave a uniform draw. float64, summed in fixed point.
    """
    eligible = valid & (valid.cumsum(dim=-1) > proposal.skip_first)
    budget = budget_count(valid, ctx.budget).minimum(eligible.sum(dim=-1))
    num_covered = (budget.double() * proposal.coverage + 1e-6).long().minimum((budget - 1).clamp(min=0))
    covered = (rank_scores(scores, eligible) < num_covered[:, None]) & eligible
    rest = eligible & ~covered
    mass = scores.double().masked_fill(~rest, 0.0).clamp(min=0)
    peak = mass.amax(dim=-1, keepdim=True)
    # Relative to the highest score no power underflows everywhere.
    mass = ((mass / peak) ** (1.0 / proposal.smoothing)).where(peak > 0, rest.double())
    cumulative, length = cumulate(mass), valid.shape[-1]
    # Stream 1: stream 0 is the noise that the scores themselves may be made of.
    places = locate(cumulative, ctx.uniform(length, stream=1))
    num_draws = budget - num_covered
    drawn = torch.arange(length, device=valid.device) < num_draws[:, None]
    counts = torch.zeros_like(places).scatter_add_(-1, places.clamp(max=length - 1), drawn.long()).double()
    probability = (mass / (cumulative[:, -1:].double() * UNIT)).where(rest, 0.0)
    return Draws(counts=counts, probability=probability, covered=covered, eligible=eligible, num_draws=num_draws)
