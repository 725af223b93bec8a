"""Student margin q(1) - q(2), negated: how close the student's two best guesses are."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("student_margin", source="margin sampling (Scheffer et al., 2001), on the student's next token")
def student_margin(*, student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Score each position by how little the most likely token leads the second.

    Returns:
        A difference of probabilities in [-1, 0]; 0 where the two are tied. Only its order is of use: a policy that
        reads scores as masses takes negative ones for zero.

    Provenance:
        Code: none: a classical definition
        Deviation: negated, so that close guesses come first
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    best = student_logprobs.topk(2, dim=-1).values.exp()
    return best[:, 1] - best[:, 0]
