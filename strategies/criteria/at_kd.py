"""AT-KD: skip the target part of the KL on tokens that are easy for the teacher, and weigh hard tokens up."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from strategies.criteria._gold_split import gold_split
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("at_kd", source="arXiv:2402.11890 (AT-KD), Section 3")
def at_kd(
    *,
    teacher_logprobs: Float[Tensor, "N V"],
    student_logprobs: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    teacher_uncertainty_rank: Float[Tensor, " N"],
    hard_fraction: float,
    easy_weight: float,
) -> Float[Tensor, " N"]:
    """Weigh NCKD on easy rows and TCKD + NCKD on hard rows.

    Summed over a batch and divided by its size this is (easy_weight * sum_easy + (1 - easy_weight) * sum_hard) / n.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        targets: the true next tokens.
        teacher_uncertainty_rank: rank of 1 - p(y) among the global batch's valid positions, in [0, 1).
        hard_fraction: share of positions that count as hard, in [0, 1]; 0.5 in the paper.
        easy_weight: weight of the easy part, in [0, 1]; 0.2 in the paper.

    Returns:
        Nats, in [0, inf).

    Provenance:
        Code: ATKD distill/distill_trainer.py:442-483; SE-KD3x sekd/distill/atkd.py:24-181
        Deviation: split in the global batch instead of each micro-batch; sums are divided by all positions, as in
            SE-KD's code, where the original takes each part's mean, twice as much at even halves
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    parts = gold_split(teacher_logprobs, student_logprobs, targets)
    hard = teacher_uncertainty_rank >= 1.0 - hard_fraction
    return torch.where(hard, (1.0 - easy_weight) * (parts.tckd + parts.nckd), easy_weight * parts.nckd)
