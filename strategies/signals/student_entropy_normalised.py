"""Student entropy as a share of its maximum: H(q_t) / log V, comparable between vocabularies."""

import math

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("student_entropy_normalised", source="arXiv:2604.14084 (TIP), the entropy axis")
def student_entropy_normalised(
    *, student_entropy: Float[Tensor, " N"], student_logprobs: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """Divide each position's entropy by that of the uniform distribution.

    Returns:
        A share in [0, 1].

    Provenance:
        Code: OPSD src/opd/losses.py:216-217
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    return student_entropy / math.log(student_logprobs.shape[-1])
