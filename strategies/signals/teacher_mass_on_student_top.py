"""Teacher mass on the student's top tokens: whether what the teacher says is within the student's reach."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("teacher_mass_on_student_top", source="arXiv:2605.26844 (TA-OPD), compatibility")
def teacher_mass_on_student_top(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], num: int = 16
) -> Float[Tensor, " N"]:
    """Score each position by the probability the teacher gives to the student's most likely tokens.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        num: how many of the student's tokens; 16 in the paper. All of a smaller vocabulary.

    Returns:
        A probability in [0, 1].

    Provenance:
        Code: IER-OPD slime/rollout/tip_compat.py _add_exact_cmass
        Deviation: none known; of the paper's own repository, as of `teachability`, nothing was read
        Test: tests/strategies/test_signals.py::test_a_row_signal_equals_its_reference
    """
    top = student_logprobs.topk(min(num, student_logprobs.shape[-1]), dim=-1).indices
    return teacher_logprobs.gather(-1, top).exp().sum(dim=-1)
