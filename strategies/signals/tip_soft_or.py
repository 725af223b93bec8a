"""Soft-or of student entropy and divergence: undecided, or sure and wrong, or both."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import signal
from strategies.signals._scale import clip_and_scale

# B = sequences, L = positions


@signal("tip_soft_or", source="arXiv:2604.14084 (TIP), soft-or score", scope="batch")
def tip_soft_or(
    *,
    student_entropy_normalised: Float[Tensor, "B L"],
    reverse_kl: Float[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    clip: float = 0.98,
) -> Float[Tensor, "B L"]:
    """Score each position by h + d - h d, with both parts clipped and scaled to [0, 1] over the batch.

    Args:
        student_entropy_normalised: H(q) / log V, the basis of h.
        reverse_kl: KL(q || p) in nats, the basis of d.
        valid: positions that have a target.
        clip: percentile, as a share, that outliers of both parts are cut at; 0.98 in the paper.

    Returns:
        A number in [0, 1]; 0 only where both parts are at their least.

    Provenance:
        Code: none: the repository that the paper names (OPSD) has entropy- and JSD-weighted draws in place of this
            score
        Deviation: none from the text; on the data's text
        Test: tests/strategies/test_signals.py::test_a_batch_signal_equals_its_reference
    """
    undecided = clip_and_scale(student_entropy_normalised, valid, high=clip)
    wrong = clip_and_scale(reverse_kl, valid, high=clip)
    return undecided + wrong - undecided * wrong
