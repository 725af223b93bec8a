"""Sequences drawn uniformly without replacement: the paper's RandomSmp, which any sample signal has to beat."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import keep_samples, sample_count
from strategies.registry import sample_policy

# S = training sequences, K = kept sequences


@sample_policy("random", source="arXiv:2602.01395 (SE-KD), RandomSmp", scored=False)
@dataclass(frozen=True, kw_only=True)
class RandomSamples:
    """Keep round(budget * S) sequences, drawn once per seed; a smaller budget keeps a part of a larger one's."""

    def choose(self, scores: Float[Tensor, " S"], budget: float, noise: Float[Tensor, " S"]) -> Int[Tensor, " K"]:
        """Keep the top of a uniform ranking, which is a uniform draw without replacement."""
        return keep_samples(noise.argsort(descending=True, stable=True), sample_count(len(noise), budget))
