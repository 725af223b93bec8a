"""Teachability: the student is far from the teacher, yet what the teacher says is within its reach."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import signal
from strategies.signals._scale import clip_and_scale

# B = sequences, L = positions


@signal("teachability", source="arXiv:2605.26844 (TA-OPD)", scope="batch")
def teachability(
    *,
    kl: Float[Tensor, "B L"],
    teacher_mass_on_student_top: Float[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    low: float = 0.05,
    high: float = 0.95,
) -> Float[Tensor, "B L"]:
    """Score each position by N(KL(p || q)) N(teacher's mass on the student's top tokens).

    Args:
        kl: KL(p || q) in nats.
        teacher_mass_on_student_top: sum of p over the student's 16 most likely tokens.
        valid: positions that have a target.
        low: percentile, as a share, that N clips at from below; 0.05 in the paper.
        high: percentile that it clips at from above; 0.95.

    Returns:
        A number in [0, 1].

    Provenance:
        Code: IER-OPD slime/rollout/tip_compat.py _add_normalized_scores
        Deviation: none known; the paper's own repository (wyy-code/TA-OPD) was not to be had: the function cited is
            another paper's baseline, on both models' top tokens, where ours is exact
        Test: tests/strategies/test_signals.py::test_a_batch_signal_equals_its_reference
    """
    gap = clip_and_scale(kl, valid, low=low, high=high)
    return gap * clip_and_scale(teacher_mass_on_student_top, valid, low=low, high=high)
