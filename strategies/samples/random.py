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
    """Keep round(budget * S) sequences, drawn once per seed; a smaller budget keeps a part of a larger one's.

    Provenance:
        Place: Section 5
        Code: SE-KD3x sekd/distill/sample_skipper.py:237-262
        Deviation: round of the budget where the code takes the floor
        Test: tests/strategies/test_samples.py::test_random_ignores_the_scores_and_is_nested_in_its_budget
    """

    def choose(self, scores: Float[Tensor, " S"], budget: float, noise: Float[Tensor, " S"]) -> Int[Tensor, " K"]:
        """Keep the top of a uniform ranking, which is a uniform draw without replacement."""
        return keep_samples(noise.argsort(descending=True, stable=True), sample_count(len(noise), budget))
