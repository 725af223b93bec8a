"""AMiD: the teacher against an assistant between both models, a power mean of their probabilities."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation
from strategies.criteria._alpha_beta import alpha_beta, gap_below
from strategies.criteria._mixture import check_share
from strategies.registry import criterion

# N = supervised positions, V = vocabulary


@criterion("amid", source="arXiv:2510.15982 (AMiD)", whole=True)
def amid(
    *,
    teacher_logprobs: Float[Tensor, "N V"],
    student_logprobs: Float[Tensor, "N V"],
    alpha: float,
    share: float,
    divergence: str,
) -> Float[Tensor, " N"]:
    """Compare each row by D(p, r), r proportional to (share p^s + (1 - share) q^s)^(1 / s) with s = (1 - alpha) / 2.

    At alpha -1 the assistant is the plain mixture, and with the forward KL the loss is DistiLLM's; towards 1 it is the
    geometric mean. The gradient passes through r.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        alpha: below 1.
        share: the teacher's in the assistant, in (0, 1).
        divergence: `forward_kl`, or `ab`, the alpha-beta divergence at (0.2, 0.7).

    Returns:
        Nats, or the alpha-beta divergence's number; at least 0, exactly 0 where the rows are equal.

    Provenance:
        Code: AMiD distillm/losses.py amid; AMiD scripts/gpt2/amid/train_0.1B_1.5B.sh:36-39
        Deviation: of the code's four orders of teacher, student and assistant the one that its scripts take, "pr"
        Test: tests/strategies/test_criteria.py::test_value_and_gradient_equal_the_direct_formula
    """
    check_share("share of amid", share)
    if not alpha < 1.0:
        raise ValueError(f"alpha of amid must be below 1, it is {alpha:g}")
    if divergence not in ("forward_kl", "ab"):
        raise ValueError(f"divergence of amid must be forward_kl or ab, not {divergence!r}")
    power = (1.0 - alpha) / 2.0
    top, gap = gap_below(teacher_logprobs, student_logprobs)
    below = share + (1.0 - 2.0 * share) * (teacher_logprobs > student_logprobs).to(gap.dtype)
    assistant = top + torch.log1p(below * torch.expm1(power * gap)) / power
    # Its mass less the teacher's, which is 1, so that equal rows leave exactly nothing to normalise.
    log_mass = torch.log1p((assistant.exp() - teacher_logprobs.exp()).sum(dim=-1))
    if divergence == "forward_kl":
        return expectation(teacher_logprobs, teacher_logprobs - assistant) + log_mass
    return alpha_beta(teacher_logprobs, assistant - log_mass[:, None], alpha=0.2, beta=0.7)
