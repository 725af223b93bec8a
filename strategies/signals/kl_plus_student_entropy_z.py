"""Forward KL plus student entropy, each standardised within its sequence: SE-KD's sum as its released code has it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import budget_count, rank_scores
from strategies.registry import signal

# B = sequences, L = positions

_FLAT = 1e-6  # a deviation below this is not divided by


@signal(
    "kl_plus_student_entropy_z",
    source="released code of arXiv:2602.01395 (SE-KD), where its Section 4 says KL + H(q)",
    scope="batch",
)
def kl_plus_student_entropy_z(
    *,
    kl: Float[Tensor, "B L"],
    student_entropy: Float[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    prefilter: float = 1.0,
) -> Float[Tensor, "B L"]:
    """Score each position by z(H(q)) + z(KL(p || q)).

    The code can add z(CE(y, q)), which the paper's row does not name.

    Args:
        kl: nats.
        student_entropy: nats.
        valid: positions that have a target.
        prefilter: share of a sequence's valid positions, those of highest entropy, that take part; z is over them, and
            all others score 1 less than the least of them. The code takes three times the budget, 0.6 at 20%.

    Returns:
        0 where not valid. z is a number of deviations from the sequence's mean; of a flat part only the mean is taken.

    Provenance:
        Code: SE-KD3x sekd/distill/trainer.py:1078-1136; SE-KD3x sekd/distill/_mixins/selection_scoring.py:9-34; SE-KD3x
            sekd/distill/_mixins/selection_scoring.py:102-134
        Deviation: without z(CE(y, q)), which the code adds at weight 1 unless told otherwise; what fails the prefilter
            ranks last instead of never, and sequences of fewer than three positions are not skipped
        Test: tests/strategies/test_signals.py::test_a_standardised_sum_equals_its_reference
    """
    part = valid & (rank_scores(student_entropy, valid) < budget_count(valid, prefilter)[:, None])
    total = _standardised(student_entropy, part) + _standardised(kl, part)
    least = total.masked_fill(~part, torch.inf).amin(dim=-1, keepdim=True)
    return total.where(part, least - 1.0).where(valid, 0.0)


def _standardised(values: Float[Tensor, "B L"], part: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    num = part.sum(dim=-1, keepdim=True).clamp(min=1)
    centred = (values - values.where(part, 0.0).sum(dim=-1, keepdim=True) / num).where(part, 0.0)
    deviation = (centred.square().sum(dim=-1, keepdim=True) / num).sqrt()
    return centred / deviation.where(deviation >= _FLAT, 1.0)
