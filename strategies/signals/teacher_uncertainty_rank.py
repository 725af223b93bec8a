"""Rank of the teacher's uncertainty within the batch: the scale on which AT-KD splits easy from hard tokens."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import rank_scores
from strategies.registry import signal

# B = sequences, L = positions


@signal("teacher_uncertainty_rank", source="arXiv:2402.11890 (AT-KD), Section 3", scope="batch")
def teacher_uncertainty_rank(
    *, teacher_uncertainty: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """Score each position by its place among all valid positions of the global batch.

    Returns:
        Shares in [0, 1): 0 for the token the teacher is surest of. The hardest half has scores of at least 0.5.

    Provenance:
        Code: ATKD distill/distill_trainer.py:462-464; SE-KD3x sekd/distill/atkd.py:130-140
        Deviation: a rank within the global batch, which micro-batches do not change; the codes split each micro-batch
        Test: tests/strategies/test_signals.py::test_the_rank_signal_equals_its_reference
    """
    rank = rank_scores(teacher_uncertainty.reshape(1, -1), valid.reshape(1, -1), descending=False)
    return (rank / valid.sum().clamp(min=1)).reshape(valid.shape)
