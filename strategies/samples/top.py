"""The highest-scoring sequences: the paper's TopSmp."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import keep_samples, sample_count
from strategies.registry import sample_policy

# S = training sequences, K = kept sequences


@sample_policy("top", source="arXiv:2602.01395 (SE-KD), TopSmp")
@dataclass(frozen=True, kw_only=True)
class Top:
    """Keep the round(budget * S) sequences of the highest score.

    Provenance:
        Place: Section 4, Cross-Axis Selection
        Code: SE-KD3x sekd/distill/sample_skipper.py:348-363; SE-KD3x sekd/distill/sample_skipper.py:466-472
        Deviation: round of the budget where the code takes the floor; kept sequences fill batches, where the code
            leaves gaps in micro-batches (557-590): the setting `samples.filtered`
        Test: tests/strategies/test_samples.py::test_top_and_bottom_break_ties_by_index
    """

    def choose(self, scores: Float[Tensor, " S"], budget: float, noise: Float[Tensor, " S"]) -> Int[Tensor, " K"]:
        """Keep exactly that many; ties go to the earliest sequence."""
        return keep_samples(scores.argsort(descending=True, stable=True), sample_count(len(scores), budget))
