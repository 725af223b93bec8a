"""The lowest-scoring sequences: the control that says whether a signal's direction matters."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import keep_samples, sample_count
from strategies.registry import sample_policy

# S = training sequences, K = kept sequences


@sample_policy("bottom", source="control of TopSmp, arXiv:2602.01395 (SE-KD)")
@dataclass(frozen=True, kw_only=True)
class Bottom:
    """Keep the round(budget * S) sequences of the lowest score.

    Provenance:
        Code: none: a control of ours
        Deviation: not in the paper
        Test: tests/strategies/test_samples.py::test_top_and_bottom_break_ties_by_index
    """

    def choose(self, scores: Float[Tensor, " S"], budget: float, noise: Float[Tensor, " S"]) -> Int[Tensor, " K"]:
        """Keep exactly that many; ties go to the earliest sequence."""
        return keep_samples(scores.argsort(stable=True), sample_count(len(scores), budget))
