"""Student uncertainty 1 - max q_t: how much probability the student's best guess leaves to others."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("student_uncertainty", source="least confidence sampling (Lewis and Gale, 1994), on the student's next token")
def student_uncertainty(*, student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by the probability the student withholds from its most likely token.

    Returns:
        A probability in [0, 1).

    Provenance:
        Code: none: a classical definition
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return -torch.expm1(student_logprobs.amax(dim=-1))
