"""Direct preference KD, position by position: the teacher's likeliest token is preferred to the student's."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import pick
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("dpkd", source="official code of arXiv:2406.19774 (DPKD): microsoft/LMOps, dpkd/main.py", whole=True)
def dpkd(
    *, teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], beta: float
) -> Float[Tensor, " N"]:
    """Compare each row by -log sigmoid(beta ((log q(t) - log q(s)) - (log p(t) - log p(s)))).

    t is the teacher's likeliest token and s the student's. The paper derives a preference between whole sequences
    (`rollout.preference`); its code takes this one, on the data's text, as half of the loss beside cross-entropy.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        beta: above 0; 0.1 in the code.

    Returns:
        Nats, in (0, inf); log 2 with a gradient of 0 where both prefer the same token.

    Provenance:
        Code: LMOps dpkd/main.py:193-259
        Deviation: float32 instead of bfloat16; without the code's options (label smoothing, IPO, DPOP, SimPO). The
            text's preference between sequences is the setting `rollout.preference`
        Test: tests/strategies/test_criteria.py::test_dpkd_prefers_the_teachers_token
    """
    chosen, rejected = teacher_logprobs.argmax(dim=-1), student_logprobs.argmax(dim=-1)
    ours, theirs = (pick(rows, chosen) - pick(rows, rejected) for rows in (student_logprobs, teacher_logprobs))
    return -torch.nn.functional.logsigmoid(beta * (ours - theirs))
