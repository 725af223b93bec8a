"""Soft-or of student entropy and compatible divergence: undecided, or wrong within the student's reach."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import signal
from strategies.signals._scale import clip_and_scale

# B = sequences, L = positions


@signal("ca_soft_or", source="released code of arXiv:2609.24432 (IER-OPD), a baseline of it", scope="batch")
def ca_soft_or(
    *,
    student_entropy_normalised: Float[Tensor, "B L"],
    kl: Float[Tensor, "B L"],
    teacher_mass_on_student_top: Float[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
) -> Float[Tensor, "B L"]:
    """Score each position by h + d - h d, both parts clipped to their 5th and 95th percentile and scaled to [0, 1].

    Args:
        student_entropy_normalised: H(q) / log V, the basis of h.
        kl: KL(p || q) in nats; times the next, the basis of d.
        teacher_mass_on_student_top: sum of p over the student's likeliest tokens.
        valid: positions that have a target.

    Returns:
        A number in [0, 1]; 0 only where both parts are at their least.

    Provenance:
        Code: IER-OPD slime/rollout/tip_compat.py _add_normalized_scores
        Deviation: entropy and divergence of the full distributions, where the code takes those of both models' 16
            likeliest tokens
        Test: tests/strategies/test_signals.py::test_a_batch_signal_equals_its_reference
    """
    undecided = clip_and_scale(student_entropy_normalised, valid, low=0.05, high=0.95)
    wrong = clip_and_scale(kl * teacher_mass_on_student_top, valid, low=0.05, high=0.95)
    return undecided + wrong - undecided * wrong
