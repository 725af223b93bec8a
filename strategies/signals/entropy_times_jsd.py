"""Student entropy times Jensen-Shannon divergence, as shares of their greatest: weights to draw positions by."""

import math

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions


@signal("entropy_times_jsd", source="OPSD's sampler, the repository that arXiv:2604.14084 (TIP) extends")
def entropy_times_jsd(
    *,
    student_entropy_normalised: Float[Tensor, " N"],
    jsd: Float[Tensor, " N"],
    entropy_power: float = 1.0,
    jsd_power: float = 1.0,
) -> Float[Tensor, " N"]:
    """Score each position by (H(q) / log V)^entropy_power (JSD / log 2)^jsd_power.

    Args:
        student_entropy_normalised: H(q) / log V.
        jsd: Jensen-Shannon divergence in nats.
        entropy_power: at least 0.
        jsd_power: at least 0; 0 in the code unless told otherwise.

    Returns:
        A number in [0, 1]; no factor is taken below 1e-8.

    Provenance:
        Code: OPSD src/opd/losses.py:249-310
        Deviation: none known; no script of the repository draws by it, so its powers are nobody's
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    undecided = student_entropy_normalised.clamp(min=1e-8) ** entropy_power
    return undecided * (jsd / math.log(2.0)).clamp(min=1e-8) ** jsd_power
