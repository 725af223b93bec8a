"""Rank of the teacher's entropy within the batch: EGAD's scale of token difficulty."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import rank_scores
from strategies.registry import signal

# B = sequences, L = positions


@signal("teacher_entropy_rank", source="arXiv:2605.01732 (EGAD); reconstructed from the abstract", scope="batch")
def teacher_entropy_rank(*, teacher_entropy: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Score each position by its place among all valid positions of the global batch.

    Returns:
        Shares in [0, 1]: 0 for the token the teacher is surest of, 1 for the one it is least sure of. Where entropies
        tie, the earlier position counts as the surer one. 0 where not valid.

    Provenance:
        Code: none: no public code
        Deviation: the scale is ours: the abstract says only that the teacher's entropy guides
        Test: tests/strategies/test_signals.py::test_the_rank_of_the_teachers_entropy_runs_from_0_to_1
    """
    rank = rank_scores(teacher_entropy.reshape(1, -1), valid.reshape(1, -1), descending=False)
    share = rank.to(teacher_entropy.dtype) / (valid.sum() - 1).clamp(min=1)
    return share.reshape(valid.shape).where(valid, 0.0)
