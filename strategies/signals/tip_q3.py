"""Divergence where the student is sure of itself: TIP's third quadrant, overconfident tokens."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import signal
from strategies.signals._scale import clip_and_scale

# B = sequences, L = positions


@signal("tip_q3", source="arXiv:2604.14084 (TIP), quadrant Q3", scope="batch")
def tip_q3(
    *,
    kl: Float[Tensor, "B L"],
    student_entropy_normalised: Float[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    clip: float = 0.98,
) -> Float[Tensor, "B L"]:
    """Score each position by KL(p || q) (1 - h), h being the entropy clipped and scaled over the batch.

    Args:
        kl: KL(p || q) in nats.
        student_entropy_normalised: H(q) / log V, the basis of h.
        valid: positions that have a target.
        clip: percentile, as a share, that the entropy's outliers are cut at; 0.98 in the paper.

    Returns:
        Nats, in [0, inf); 0 where the student is as undecided as anywhere.

    Provenance:
        Code: none: the repository that the paper names (OPSD) has entropy- and JSD-weighted draws in place of this
            score
        Deviation: none from the text; on the data's text
        Test: tests/strategies/test_signals.py::test_a_batch_signal_equals_its_reference
    """
    sure = 1.0 - clip_and_scale(student_entropy_normalised, valid, high=clip)
    return (kl * sure).where(valid, 0.0)
