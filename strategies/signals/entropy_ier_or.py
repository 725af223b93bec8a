"""Student entropy and IER joined by their soft-or: undecided, or reliably taught."""

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import signal
from strategies.signals._rank import rank_in_batch
from strategies.signals._scale import clip_and_scale

# B = sequences, L = positions


@signal("entropy_ier_or", source="arXiv:2609.24432 (IER-OPD), entropy OR IER", scope="batch")
def entropy_ier_or(
    *, student_entropy_normalised: Float[Tensor, "B L"], ier: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """Score each position by u + r - u r, u the scaled entropy and r the rank of IER in the batch.

    Args:
        student_entropy_normalised: H(q) / log V; u is that, clipped to its 5th and 95th percentile and scaled to 0..1.
        ier: signal to noise; r runs from 0 for the least to 1 for the greatest.
        valid: positions that have a target.

    Returns:
        A number in [0, 1].

    Provenance:
        Code: IER-OPD slime/rollout/tip_compat.py _apply_budget_mask
        Deviation: entropy of the full distribution, where the code takes that of the 16 likeliest tokens; ties are
            broken by position alone
        Test: tests/strategies/test_signals.py::test_a_batch_signal_equals_its_reference
    """
    undecided = clip_and_scale(student_entropy_normalised, valid, low=0.05, high=0.95)
    reliable = rank_in_batch(ier, valid)
    return undecided + reliable - undecided * reliable
