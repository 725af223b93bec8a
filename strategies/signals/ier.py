"""IER: how much of a sampled reverse-KL gradient at a position is signal, and how much is noise of the sample."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary

_EPS = 1e-8  # what the code divides by at least
_CAP = 30.0  # what it clips log-ratios to


@signal("ier", source="arXiv:2609.24432 (IER-OPD)")
def ier(
    *,
    teacher_logprobs: Float[Tensor, "N V"],
    student_logprobs: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    num: int = 16,
) -> Float[Tensor, " N"]:
    """Score each position by Var_q[r] / (E_q[(r - b)^2 L] - Var_q[r]), r = log q / p and L = 1 / q - 1.

    b = E_q[r L] / E_q[L] is the baseline of least variance. Both models are normalised over the candidates: their `num`
    most likely tokens each, and the token at hand.

    Args:
        teacher_logprobs: log p.
        student_logprobs: log q.
        targets: the data's tokens, which stand for sampled ones.
        num: likeliest tokens of each model, 16 in the paper; all of a smaller vocabulary.

    Returns:
        A ratio of at least 0.

    Provenance:
        Code: IER-OPD slime/rollout/ier_opd/ier_metrics.py:73-188; IER-OPD configs/main.json
        Deviation: every candidate's log-probability is exact, where the code has -12 for what the serving program
            leaves out of the other model's likeliest tokens; on the data's token
        Test: tests/strategies/test_signals.py::test_ier_is_what_the_official_test_expects
    """
    num = min(num, student_logprobs.shape[-1])
    likely = [logprobs.topk(num, dim=-1).indices for logprobs in (student_logprobs, teacher_logprobs)]
    left_out = torch.ones_like(student_logprobs, dtype=torch.bool)
    left_out.scatter_(-1, torch.cat([*likely, targets[:, None]], dim=-1), value=False)
    log_q, log_p = (
        each.masked_fill(left_out, -torch.inf).log_softmax(dim=-1) for each in (student_logprobs, teacher_logprobs)
    )
    q = log_q.exp()
    ratio = (log_q - log_p).masked_fill(left_out, 0.0).clamp(-_CAP, _CAP)
    leverage = q * (1.0 / q.clamp(min=_EPS) - 1.0)
    mean, spread = (q * ratio).sum(dim=-1), leverage.sum(dim=-1)
    signal_ = (q * (ratio - mean[:, None]).square()).sum(dim=-1)
    baseline = ((leverage * ratio).sum(dim=-1) / spread).where(spread.abs() > _EPS, mean)
    noise = (leverage * (ratio - baseline[:, None]).square()).sum(dim=-1) - signal_
    return signal_ / noise.clamp(min=_EPS)
