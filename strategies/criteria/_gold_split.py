"""FKL split at the gold token: the two parts that AT-KD and DKD weigh separately."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import expectation, pick

# N = supervised positions, V = vocabulary


@dataclass(frozen=True, kw_only=True)
class GoldSplit:
    """The parts of FKL = tckd + (1 - p(y)) nckd (arXiv:2203.08679, equation 7).

    Attributes:
        tckd: KL between (p(y), 1 - p(y)) and (q(y), 1 - q(y)), nats.
        nckd: KL between the two distributions renormalised over the other classes, nats.
    """

    tckd: Float[Tensor, " N"]
    nckd: Float[Tensor, " N"]


def gold_split(
    teacher_logprobs: Float[Tensor, "N V"], student_logprobs: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> GoldSplit:
    """Split each row's forward KL at its target."""
    p_gold, p_rest, p_others = _split(teacher_logprobs, targets)
    q_gold, q_rest, q_others = _split(student_logprobs, targets)
    p_binary, q_binary = torch.stack([p_gold, p_rest], dim=-1), torch.stack([q_gold, q_rest], dim=-1)
    return GoldSplit(
        tckd=expectation(p_binary, p_binary - q_binary),
        nckd=expectation(p_others, p_others - q_others),
    )


def _split(logprobs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(y), log(1 - p(y)) and the log-probabilities of the other classes given "not y".

    log(1 - p(y)) is summed from the other classes: log1p(-p) loses every digit where the teacher is sure.
    """
    others = logprobs.scatter(-1, targets[:, None], -torch.inf)
    rest = others.logsumexp(dim=-1)
    return pick(logprobs, targets), rest, others - rest[:, None]
