"""ToDi: per class, forward KL where the student is below the teacher, reverse KL where it is above."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("todi", source="arXiv:2505.16297 (ToDi), Section 4")
def todi(*, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Compare each row by sum_v s(log p/q) p log(p/q) + s(log q/p) q log(q/p), s the sigmoid, without its gradient.

    Its value is KL(p || q) + KL(q || p), because s(log p/q) = p / (p + q); its gradient is not, because the weights are
    constants in it. A curve of this loss therefore tells how far apart the rows are, not what a step descends on.

    Returns:
        Nats, in [0, inf); exactly 0 where the rows are equal.

    Provenance:
        Code: ToDi code/criterions/various_divergence.py:326-365
        Deviation: none known
        Test: tests/strategies/test_criteria.py::test_todi_has_jeffreys_value_but_not_its_gradient
    """
    # Left as inf - inf, a class that both leave out would turn the gradient of all others into nan.
    masked = (student_logprobs == -torch.inf) & (teacher_logprobs == -torch.inf)
    gap = (student_logprobs - teacher_logprobs).masked_fill(masked, 0.0)
    above = gap.detach().sigmoid()
    forward = expectation(teacher_logprobs, (above - 1.0) * gap)
    return forward + expectation(student_logprobs, above * gap)
