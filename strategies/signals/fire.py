"""FiRe's weights: the teacher sure and the student undecided, in sequences that the teacher finds likely."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.registry import signal

# B = sequences, L = positions


@signal("fire", source="arXiv:2606.02684 (FiRe-OPD)", scope="batch")
def fire(
    *,
    student_entropy: Float[Tensor, "B L"],
    teacher_entropy: Float[Tensor, "B L"],
    teacher_ce: Float[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    drop: float = 0.2,
    teacher_gain: float = 1.0,
    student_gain: float = 1.0,
) -> Float[Tensor, "B L"]:
    """Score each position by (1 + a (1 - H(p) / max H(p))) (1 + b H(q) / max H(q)), divided by its mean.

    Maxima and mean are those of the batch.

    Args:
        student_entropy: nats.
        teacher_entropy: nats.
        teacher_ce: -log p(y), by whose mean a sequence is kept or dropped.
        valid: positions that have a target.
        drop: share of the sequences that are dropped, those the teacher finds least likely; 0.2 in the paper.
        teacher_gain: a; 1 in the paper.
        student_gain: b; 1.

    Returns:
        A weight; 0 in a sequence that is dropped, and where not valid.

    Provenance:
        Code: FiRe-OPD verl/verl/workers/actor/dp_actor.py:381-508
        Deviation: on the data's text, of the global batch instead of each micro-batch
        Test: tests/strategies/test_signals.py::test_fire_equals_its_reference
    """
    if not bool(valid.any()):
        return torch.zeros_like(student_entropy)
    sure, undecided = (
        each / each.masked_fill(~valid, 0.0).amax().clamp(min=1e-6) for each in (teacher_entropy, student_entropy)
    )
    weight = (1.0 + teacher_gain * (1.0 - sure)) * (1.0 + student_gain * undecided)
    weight = weight.masked_fill(~valid, 0.0) * (valid.sum() / weight[valid].sum())
    mean_ce = teacher_ce.masked_fill(~valid, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)
    known = valid.any(dim=-1)
    # As many as lie above the quantile, by rank: beside an interpolated value, a sequence would hang on rounding.
    last = int(known.sum()) - 1
    num_dropped = last - math.floor(last * (1.0 - drop) + 1e-9)
    dropped = mean_ce.masked_fill(~known, -torch.inf).argsort(stable=True)[len(mean_ce) - num_dropped :]
    return weight.index_fill(0, dropped, 0.0)
