"""Jensen-Shannon divergence: the mean KL of teacher and student from their mixture."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("jsd", source="Lin (1991); as a token signal beside arXiv:2602.01395 (SE-KD), Section 4")
def jsd(*, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by KL(p || m) / 2 + KL(q || m) / 2, where m = (p + q) / 2.

    Returns:
        Nats, in [0, log 2].

    Provenance:
        Code: none: a classical definition
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    mixture = torch.logaddexp(teacher_logprobs, student_logprobs) - math.log(2.0)
    from_teacher = expectation(teacher_logprobs, teacher_logprobs - mixture)
    from_student = expectation(student_logprobs, student_logprobs - mixture)
    # Rounding can leave equal rows a little below zero.
    return ((from_teacher + from_student) / 2).clamp(min=0)
