"""Teacher uncertainty 1 - p_t(y_t): the difficulty that AT-KD splits tokens by."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("teacher_uncertainty", source="arXiv:2402.11890 (AT-KD), Section 3")
def teacher_uncertainty(*, teacher_ce: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by the probability the teacher withholds from the true token.

    Args:
        teacher_ce: CE(y, p) in nats.

    Returns:
        A probability in [0, 1].

    Provenance:
        Code: ATKD distill/distill_trainer.py:339-343; SE-KD3x sekd/distill/atkd.py:70
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return -torch.expm1(-teacher_ce)
