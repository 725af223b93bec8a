"""Positions between two percentiles of their sequence's scores: which part of a ranking carries the gain."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, rank_scores
from strategies.registry import policy

# B = sequences, L = positions


@policy("bucket", source="percentile buckets of a ranking, an ablation", budgeted=False)
@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Keep the positions whose percentile lies in [lo, hi), weight 1 each.

    The percentile of a position is the share of its sequence's valid positions that rank below it, in [0, 1). Buckets
    that share their bounds partition the positions; one of a short sequence may be empty.

    Attributes:
        lo: lower percentile as a share, in [0, 1).
        hi: upper percentile, in (lo, 1]; 0.8 to 1 is the top fifth.

    Provenance:
        Code: SE-KD3x sekd/distill/trainer.py:1520-1532
        Deviation: half-open, so that buckets partition a sequence; the code's are closed
        Test: tests/strategies/test_policies.py::test_buckets_partition_the_positions
    """

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.lo < self.hi <= 1.0:
            raise ValueError(f"0 <= lo < hi <= 1 must hold; lo is {self.lo} and hi is {self.hi}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: None
    ) -> tuple[Selection, None]:
        """Keep the bucket; where scores tie, the earliest position ranks lowest."""
        rank = rank_scores(scores, valid, descending=False)
        num_valid = valid.sum(dim=-1, keepdim=True).double()
        # Both bounds are rounded alike, so that neighbouring buckets neither overlap nor leave a gap.
        first, last = ((num_valid * bound - 1e-6).ceil() for bound in (self.lo, self.hi))
        weight = ((rank >= first) & (rank < last) & valid).float()
        return Selection(weight=weight, denom=weight.sum(dim=-1)), state
