"""AMiD: the teacher against an assistant between both models, a power mean of their probabilities."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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
    # Made again for their gradients: what those need is several rows of the vocabulary's size.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    assistant: Tensor = again(_assistant, teacher_logprobs, student_logprobs, share, (1.0 - alpha) / 2.0)
    log_mass: Tensor = again(_log_mass, teacher_logprobs, assistant)
    if divergence == "forward_kl":
        return expectation(teacher_logprobs, teacher_logprobs - assistant) + log_mass
    return alpha_beta(teacher_logprobs, assistant - log_mass[:, None], alpha=0.2, beta=0.7)


def _assistant(
    teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], share: float, power: float
) -> Float[Tensor, "N V"]:
    """Return the logarithm of the power mean of both, not normalised."""
    top, gap = gap_below(teacher_logprobs, student_logprobs)
    fall = torch.expm1(power * gap)
    return (
        top + torch.log1p(torch.where(teacher_logprobs > student_logprobs, (1.0 - share) * fall, share * fall)) / power
    )


def _log_mass(teacher_logprobs: Float[Tensor, "N V"], assistant: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Return the assistant's mass, by what it has beyond the teacher's 1: equal rows leave exactly nothing over."""
    return torch.log1p((assistant.exp() - teacher_logprobs.exp()).sum(dim=-1))
