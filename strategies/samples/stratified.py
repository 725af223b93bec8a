"""Every level of difficulty in its proportion: sequences drawn at random within equal-mass bins of their score."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import keep_samples, sample_count
from strategies.registry import sample_policy

# S = training sequences, K = kept sequences


@sample_policy("stratified", source="difficulty-aware sampling in the spirit of DA-KD; reconstructed")
@dataclass(frozen=True, kw_only=True)
class Stratified:
    """Keep round(budget * S) sequences, the same share of each quantile bin of the scores.

    Bins hold S / bins sequences of neighbouring rank, or one more or less; ties go to the earlier bin by index. What a
    bin keeps differs from its exact share by less than one sequence, and all together keep exactly the budget.

    Attributes:
        bins: number of quantile bins, at least 1; 1 is a plain random draw.

    Provenance:
        Place: SE-KD, Section 2, describes it
        Code: none: no public code
        Deviation: bins, quotas and a single choice before training are ours: DA-KD's text was not read, and it chooses
            anew while training
        Test: tests/strategies/test_samples.py::test_stratified_covers_each_bin_in_proportion
    """

    bins: int

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, it is {self.bins}")

    def choose(self, scores: Float[Tensor, " S"], budget: float, noise: Float[Tensor, " S"]) -> Int[Tensor, " K"]:
        """Draw each bin's quota uniformly without replacement."""
        num, count = len(scores), sample_count(len(scores), budget)
        edges = torch.arange(self.bins + 1, device=scores.device) * num // self.bins
        # Cumulative shares rounded from a common random offset: quotas sum to `count`, and every sequence has the same
        # chance even where a share is no whole number. The fraction of a sum of uniforms is uniform too.
        offset = (noise.double().sum() % 1 * num).long()
        quota = ((count * edges + offset) // num).diff()
        bin_of_rank = torch.repeat_interleave(torch.arange(self.bins, device=scores.device), edges.diff())
        bin_of = torch.empty_like(bin_of_rank)
        bin_of[scores.argsort(stable=True)] = bin_of_rank
        drawn = noise.argsort(descending=True, stable=True)
        drawn = drawn[bin_of[drawn].argsort(stable=True)]
        place = torch.arange(num, device=scores.device) - edges[bin_of[drawn]]
        return keep_samples(drawn[place < quota[bin_of[drawn]]], count)
